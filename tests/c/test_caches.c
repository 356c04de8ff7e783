/* Caches: what CPUs and hypervisors have answered, and this machine's.
 * SPDX-License-Identifier: Apache-2.0 */
#include "base/caches.h"
#include "check.h"

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define AMD "AuthenticAMD"
#define INTEL "GenuineIntel"

/* One CPU: whether it has TOPOEXT, and the lists of leaf 4 and of 0x8000001D, from subleaf
 * 0. Subleaves behind a list are zeros, unless `endless`: then they repeat its last entry. */
typedef struct {
    const char *what, *vendor;
    uint32_t last_leaf, last_extended;
    bool topoext, endless;
    vp_cpuid_answer leaf_4[5], leaf_1d[5];
    vp_caches want;
} recorded;

static const recorded *cpu;

static bool answer_of(const vp_cpuid_answer list[5], uint32_t i,
                      vp_cpuid_answer *answer)
{
    uint32_t entries = 0;
    while (entries < 5 && list[entries].eax != 0) {
        entries++;
    }
    *answer = (vp_cpuid_answer){0};
    if (i < entries) {
        *answer = list[i];
    } else if (cpu->endless && entries > 0) {
        *answer = list[entries - 1];
    }
    return true;
}

static bool ask(uint32_t leaf, uint32_t subleaf, vp_cpuid_answer *answer)
{
    const uint32_t extended = 0x80000000;
    if (leaf > (leaf < extended ? cpu->last_leaf : cpu->last_extended)) {
        return false;
    }
    *answer = (vp_cpuid_answer){0};
    if (leaf == 0) {
        answer->eax = cpu->last_leaf;
        memcpy(&answer->ebx, cpu->vendor, 4);
        memcpy(&answer->edx, cpu->vendor + 4, 4);
        memcpy(&answer->ecx, cpu->vendor + 8, 4);
    } else if (leaf == extended + 1) {
        answer->ecx = cpu->topoext ? 1u << 22 : 0;
    } else if (leaf == 4) {
        return answer_of(cpu->leaf_4, subleaf, answer);
    } else if (leaf == extended + 0x1D) {
        return answer_of(cpu->leaf_1d, subleaf, answer);
    }
    return true;
}

/* EAX of an entry: type 1 data, 2 instructions, 3 unified */
#define L1D 0x121
#define L1I 0x122
#define L2 0x143
#define L3 0x163

/* clang-format off */
#define ZEN_3 {{L1D, 0x01c0003f, 0x3f, 0}, {L1I, 0x01c0003f, 0x3f, 0}, \
               {L2, 0x01c0003f, 0x3ff, 2}, {L3, 0x03c0003f, 0x7fff, 1}}
/* Caches of 32 KiB, 4 MiB and 16 MiB that QEMU tells of, whatever the CPU has. */
#define MADE_UP {{L1D, 0x01c0003f, 0x3f, 1}, {L1I, 0x01c0003f, 0x3f, 1}, \
                 {L2, 0x03c0003f, 0xfff, 1}, {L3, 0x03c0003f, 0x3fff, 6}}
#define NONE {{0}}

static const recorded cpus[] = {
    /* recorded, in virtual machines of these CPUs */
    {"Zen 3 server", AMD, 0x10, 0x80000021, true, false, NONE, ZEN_3,
     {32 * KIB, 512 * KIB, 32 * MIB}},
    {"Zen 4 server", AMD, 0x1c, 0x80000021, true, false, NONE,
     {{L1D, 0x01c0003f, 0x3f, 0}, {L1I, 0x01c0003f, 0x3f, 0},
      {L2, 0x01c0003f, 0x7ff, 2}, {L3 | 0x4000, 0x03c0003f, 0x7fff, 1}},
     {32 * KIB, 1 * MIB, 32 * MIB}},
    {"Ice Lake server", INTEL, 0x1b, 0x80000008, false, false,
     {{L1D, 0x02c0003f, 0x3f, 0}, {L1I, 0x01c0003f, 0x3f, 0},
      {L2, 0x04c0003f, 0x3ff, 0}, {L3, 0x02c0003f, 0x11fff, 4}}, NONE,
     {48 * KIB, 1280 * KIB, 54 * MIB}},
    {"Sapphire Rapids", INTEL, 0x1f, 0x80000008, false, false,
     {{L1D, 0x02c0003f, 0x3f, 0}, {L1I, 0x01c0003f, 0x3f, 0},
      {L2, 0x03c0003f, 0x7ff, 0}, {L3, 0x0380003f, 0x1bfff, 4}}, NONE,
     {48 * KIB, 2 * MIB, 105 * MIB}},
    /* made for this test */
    {"Hygon's leaf is AMD's", "HygonGenuine", 0x10, 0x80000021, true, false, NONE, ZEN_3,
     {32 * KIB, 512 * KIB, 32 * MIB}},
    {"another's is Intel's", "CentaurHauls", 0x10, 0x80000008, false, false, ZEN_3, NONE,
     {32 * KIB, 512 * KIB, 32 * MIB}},
    {"two partitions; lines of 128 bytes", INTEL, 4, 0, false, false,
     {{L1D, 0x00c0103f, 0x3f, 0}, {L2, 0x01c0007f, 0x3ff, 0}}, NONE,
     {32 * KIB, 1 * MIB, 0}},
    {"leaf 4 is hidden", INTEL, 3, 0x80000008, false, false, MADE_UP, NONE, {0, 0, 0}},
    {"zeros from Intel", INTEL, 0x1b, 0x80000008, false, false, NONE, NONE, {0, 0, 0}},
    {"zeros from AMD", AMD, 0x10, 0x80000021, true, false, NONE, NONE, {0, 0, 0}},
    {"AMD without TOPOEXT", AMD, 0x10, 0x80000021, false, false, MADE_UP, ZEN_3, {0, 0, 0}},
    {"TOPOEXT without its leaf", AMD, 0x10, 0x8000001c, true, false, MADE_UP, ZEN_3,
     {0, 0, 0}},
    {"an L1 of 2 MiB", INTEL, 4, 0, false, false,
     {{L1D, 0x01c0003f, 0xfff, 0}, {L2, 0x01c0003f, 0x7ff, 0}}, NONE,
     {0, 1 * MIB, 0}},
    {"an L2 smaller than L1", INTEL, 4, 0, false, false,
     {{L1D, 0x01c0003f, 0x3f, 0}, {L2, 0x0000003f, 0x3f, 0}, {L3, 0x03c0003f, 0x7fff, 0}},
     NONE, {32 * KIB, 0, 32 * MIB}},
    {"an L3 smaller than L2", INTEL, 4, 0, false, false,
     {{L1D, 0x01c0003f, 0x3f, 0}, {L2, 0x01c0003f, 0x7ff, 0}, {L3, 0x01c0003f, 0x3ff, 0}},
     NONE, {32 * KIB, 1 * MIB, 0}},
    {"all bits are set", INTEL, 4, 0, false, false,
     {{L1D, ~0u, ~0u, ~0u}, {L2, ~0u, ~0u, ~0u}, {L3, ~0u, ~0u >> 1, ~0u}}, NONE,
     {0, 0, 0}},
    {"a list without an end", INTEL, 4, 0, false, true,
     {{L1I, 0x01c0003f, 0x3f, 0}, {L1D, 0x02c0003f, 0x3f, 0}}, NONE,
     {48 * KIB, 0, 0}},
};
/* clang-format on */

static bool alike(vp_caches a, vp_caches b)
{
    return a.l1d == b.l1d && a.l2 == b.l2 && a.l3 == b.l3;
}

int main(void)
{
    for (size_t i = 0; i < sizeof cpus / sizeof *cpus; i++) {
        cpu = &cpus[i];
        const vp_caches got = vp_caches_from_cpuid(ask);
        CHECK(alike(got, cpu->want), "%s: %zu, %zu, %zu", cpu->what, got.l1d, got.l2,
              got.l3);
    }
    const vp_caches here = vp_caches_get(), asked = vp_caches_from_cpuid(vp_cpuid);
    CHECK(alike(here, vp_caches_get()), "another size the second time");
    CHECK(asked.l2 == 0 || here.l2 != 0, "CPUID's answer is lost");
    CHECK(here.l2 == 0 || here.l2 >= here.l1d, "%zu bytes of L2", here.l2);
    CHECK(here.l3 == 0 || here.l3 >= here.l2, "%zu bytes of L3", here.l3);
    return check_done();
}
