/* A plugin of qemu-user: how many instructions ran in each function, and how many of them are
 * multiply-adds of four floats.
 *
 * The program under it says where to count: at each getppid() (the system call that nothing else
 * makes) a line "mark" and one line a function, "instructions multiply-adds name", of what ran since the
 * last one go to standard error. Counts are added without a lock: one thread.
 *
 * What is used of qemu's plugin API, version 1, is declared here, since its header is in no
 * package. SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
typedef struct qemu_plugin_tb tb;
typedef struct qemu_plugin_insn insn;
enum { ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id,
                                           void (*translated)(plugin_id id, tb *block));
void qemu_plugin_register_vcpu_syscall_cb(
    plugin_id id, void (*called)(plugin_id id, unsigned vcpu, int64_t number,
                                 uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                                 uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8));
void qemu_plugin_register_vcpu_tb_exec_inline(tb *block, int op, void *at, uint64_t by);
size_t qemu_plugin_tb_n_insns(const tb *block);
insn *qemu_plugin_tb_get_insn(const tb *block, size_t i);
const void *qemu_plugin_insn_data(const insn *instruction);
const char *qemu_plugin_insn_symbol(const insn *instruction);

EXPORT int qemu_plugin_version = 1;

#define GETPPID 173 /* on arm64 */

typedef struct function {
    struct function *next;
    char *name;
    uint64_t instructions, multiplies;
} function;

static function *functions;

static function *function_of(const char *name)
{
    for (function *f = functions; f != NULL; f = f->next) {
        if (strcmp(f->name, name) == 0) {
            return f;
        }
    }
    function *f = calloc(1, sizeof *f);
    if (f == NULL || (f->name = strdup(name)) == NULL) {
        abort();
    }
    f->next = functions;
    return functions = f;
}

/* FMLA and FMLS of four floats, by a vector or by a lane. */
static int multiplies(uint32_t word)
{
    return (word & 0xff60fc00) == 0x4e20cc00 || (word & 0xffc0b400) == 0x4f801000;
}

static void translated(plugin_id id, tb *block)
{
    (void)id;
    const size_t n = qemu_plugin_tb_n_insns(block);
    const char *name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, 0));
    function *f = function_of(name != NULL && *name != 0 ? name : "elsewhere");
    uint64_t adds = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)),
               sizeof word);
        adds += (uint64_t)multiplies(word);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &f->instructions, n);
    if (adds > 0) {
        qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &f->multiplies, adds);
    }
}

static void called(plugin_id id, unsigned vcpu, int64_t number, uint64_t a1,
                   uint64_t a2, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                   uint64_t a7, uint64_t a8)
{
    (void)id, (void)vcpu, (void)a1, (void)a2, (void)a3, (void)a4, (void)a5;
    (void)a6, (void)a7, (void)a8;
    if (number != GETPPID) {
        return;
    }
    fputs("mark\n", stderr);
    for (function *f = functions; f != NULL; f = f->next) {
        if (f->instructions > 0) {
            fprintf(stderr, "%" PRIu64 " %" PRIu64 " %s\n", f->instructions,
                    f->multiplies, f->name);
        }
        f->instructions = f->multiplies = 0;
    }
}

EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
