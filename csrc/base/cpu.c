/* Which targets this machine can run. SPDX-License-Identifier: Apache-2.0 */
#include "base/cpu.h"

#include <string.h>
#if defined(VP_X86) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(VP_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(VP_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(VP_ARM64) && defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

#include "base/cpuid.h"

const char *vp_target_name(vp_target target)
{
    static const char *const names[] = {
#define NAME(name, arch, vectors, features) #name,
        VP_TARGETS(NAME)
#undef NAME
    };
    return names[target];
}

vp_target vp_target_from_name(const char *name)
{
    int t = 0;
    while (t < VP_TARGET_COUNT && strcmp(name, vp_target_name((vp_target)t)) != 0) {
        t++;
    }
    return (vp_target)t;
}

#if defined(VP_X86)
/* -- one function a feature -- */

/* The builtins look at XCR0 too: a CPU whose operating system does not save the wide
 * registers counts as one without them. */
#define BUILTIN(feature)                         \
    static bool has_##feature(void)              \
    {                                            \
        return __builtin_cpu_supports(#feature); \
    }
BUILTIN(fma)
BUILTIN(avx2)
BUILTIN(avx512f)
BUILTIN(avx512bw)
BUILTIN(avx512dq)
BUILTIN(avx512vl)
BUILTIN(avx512vnni)
BUILTIN(avx512bf16)
#undef BUILTIN

/* Not every compiler's __builtin_cpu_supports knows F16C. avx2, which every target that needs
 * it needs as well, looks at XCR0. */
static bool has_f16c(void)
{
    vp_cpuid_answer answer;
    return vp_cpuid(1, 0, &answer) && (answer.ecx >> 29 & 1) != 0;
}

/* Nor AVX-VNNI, whose target has avx2's vectors. */
static bool has_avxvnni(void)
{
    vp_cpuid_answer answer; /* leaf 7's eax is its last subleaf */
    return vp_cpuid(7, 0, &answer) && answer.eax >= 1 && vp_cpuid(7, 1, &answer) &&
           (answer.eax >> 4 & 1) != 0;
}

#if defined(__linux__)
/* asm/prctl.h's requests; XCR0's bit for the tiles' contents */
enum { GET_SUPPORTED = 0x1021, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

/* Not every compiler's __builtin_cpu_supports knows AMX, and its names for it differ. */
static bool has_bit_of_leaf_7_edx(unsigned bit)
{
    vp_cpuid_answer answer;
    return vp_cpuid(7, 0, &answer) && (answer.edx >> bit & 1) != 0;
}

static bool has_amx_tile(void)
{
    unsigned long states = 0;
    return has_bit_of_leaf_7_edx(24) &&
           syscall(SYS_arch_prctl, GET_SUPPORTED, &states) == 0 &&
           (states >> TILE_DATA & 1) != 0;
}

static bool has_amx_bf16(void)
{
    return has_bit_of_leaf_7_edx(22);
}

static bool has_amx_int8(void)
{
    return has_bit_of_leaf_7_edx(25);
}

#else
static bool has_amx_tile(void)
{
    return false;
}

static bool has_amx_bf16(void)
{
    return false;
}

static bool has_amx_int8(void)
{
    return false;
}
#endif
#endif

#if defined(VP_ARM64)
#if defined(__linux__)
/* asm/hwcap.h's bits */
enum { DOTPROD = 20 /* of AT_HWCAP */, I8MM = 13 /* of AT_HWCAP2 */, BF16 = 14 };

static bool has_dotprod(void)
{
    return (getauxval(AT_HWCAP) >> DOTPROD & 1) != 0;
}

static bool has_i8mm(void)
{
    return (getauxval(AT_HWCAP2) >> I8MM & 1) != 0;
}

static bool has_bf16(void)
{
    return (getauxval(AT_HWCAP2) >> BF16 & 1) != 0;
}

#else
#if defined(__APPLE__)
static bool has(const char *name)
{
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value == 1;
}
#define ASK(apples, windows) has(apples)
#elif defined(_WIN32) /* numbers of winnt.h, the last two of which are young */
#define ASK(apples, windows) (IsProcessorFeaturePresent(windows) != 0)
#else /* nobody to ask */
#define ASK(apples, windows) false
#endif

static bool has_dotprod(void)
{
    return ASK("hw.optional.arm.FEAT_DotProd", 43);
}

static bool has_i8mm(void)
{
    return ASK("hw.optional.arm.FEAT_I8MM", 66);
}

static bool has_bf16(void)
{
    return ASK("hw.optional.arm.FEAT_BF16", 68);
}
#endif
#endif

/* The kernel lets a process use AMX's tiles only once it has asked. */
static bool tiles_granted(void)
{
#if defined(VP_X86) && defined(__linux__)
    return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

bool vp_target_supported(vp_target target)
{
#if defined(VP_X86)
    __builtin_cpu_init();
#endif
    switch (target) {
#define NEEDS(feature) &&has_##feature()
#define CASE(name, arch, vectors, features)                            \
    case VP_TARGET_##name:                                             \
        VP_ON_##arch(return (VP_TARGET_##vectors == target ||          \
                             vp_target_supported(VP_TARGET_##vectors)) \
                         features;) return false;
        VP_TARGETS(CASE)
#undef CASE
#undef NEEDS
    case VP_TARGET_COUNT:
        break;
    }
    return false;
}

bool vp_target_enable(vp_target target)
{
    static const char *const features[] = {
#define NEEDS(feature) " " #feature
#define FEATURES(name, arch, vectors, features) "" features,
        VP_TARGETS(FEATURES)
#undef FEATURES
#undef NEEDS
    };
    return vp_target_supported(target) &&
           (strstr(features[target], "amx_tile") == NULL || tiles_granted());
}

vp_target vp_target_best(void)
{
    int t = VP_TARGET_COUNT - 1;
    while (!vp_target_enable((vp_target)t)) {
        t--;
    }
    return (vp_target)t;
}
