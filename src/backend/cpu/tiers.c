// Which tiers there are, which of them this machine and its operating system allow, and the choice between them.
#include "backend/cpu/cpu.h"

#include <string.h>

// What a tier needs, each with the words for its absence. Bits of `have` below.
enum { OS_AVX = 1, OS_AVX512 = 2, AVX2 = 4, AVX512 = 8, VNNI = 16, BF16 = 32, AVX_VNNI = 64, DOT = 128 };

static const struct need {
  unsigned bit;
  const char *missing;
} needs[] = {
    {AVX2, "the processor lacks AVX2, FMA or F16C"},
    {AVX512, "the processor lacks AVX-512 F, BW, DQ or VL"},
    {VNNI, "the processor lacks AVX-512 VNNI"},
    {BF16, "the processor lacks AVX-512 BF16"},
    {OS_AVX, "the operating system does not save AVX state"},
    {AVX_VNNI, "the processor lacks AVX-VNNI"},
    {OS_AVX512, "the operating system does not save AVX-512 state"},
    {DOT, "the processor lacks dot products (FEAT_DotProd)"},
};

#if defined(__x86_64__)
#include <cpuid.h>

static unsigned detect(void) {
  unsigned a, b, c, d, have = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  bool fma = (c & bit_FMA) && (c & bit_F16C);
  if (c & bit_OSXSAVE) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0x06) == 0x06) have |= OS_AVX;    // XMM and YMM
    if ((low & 0xe6) == 0xe6) have |= OS_AVX512; // and opmask, upper halves, upper registers
  }
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return have;
  const unsigned f = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
  if ((b & bit_AVX2) && fma) have |= AVX2;
  if ((b & f) == f) have |= AVX512;
  if (c & bit_AVX512VNNI) have |= VNNI;
  if (a < 1 || !__get_cpuid_count(7, 1, &a, &b, &c, &d)) return have;
  if (a & (1u << 5)) have |= BF16;
  if (a & (1u << 4)) have |= AVX_VNNI;
  return have;
}
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>

static unsigned detect(void) {
  return getauxval(AT_HWCAP) & (1ul << 20) /* ASIMDDP */ ? DOT : 0;
}
#else
static unsigned detect(void) {
#if defined(__ARM_FEATURE_DOTPROD)
  return DOT;
#else
  return 0;
#endif
}
#endif

static const struct tier {
  const zmi_kernels *kernels;
  unsigned needs;
} tiers[] = {
    {&zmi_kernels_scalar, 0},
#if defined(__x86_64__)
    {&zmi_kernels_avx2, AVX2 | OS_AVX},
    {&zmi_kernels_avx2vnni, AVX2 | AVX_VNNI | OS_AVX},
    {&zmi_kernels_avx512, AVX2 | AVX512 | OS_AVX | OS_AVX512},
    {&zmi_kernels_avx512vnni, AVX2 | AVX512 | VNNI | BF16 | OS_AVX | OS_AVX512},
#elif defined(__aarch64__)
    {&zmi_kernels_neon, 0},
    {&zmi_kernels_neondot, DOT},
#endif
};

size_t zmi_digits_bytes(int64_t k, int64_t group, int digits) {
  return ((size_t)(digits * k + k / group * (8 + 4 * digits)) + 63) / 64 * 64;
}

size_t zmi_tier_count(void) {
  return ZMI_COUNT(tiers);
}

const zmi_kernels *zmi_tier(size_t i) {
  return i < ZMI_COUNT(tiers) ? tiers[i].kernels : NULL;
}

bool zmi_tier_supported(size_t i, const char **why_not) {
  if (i >= ZMI_COUNT(tiers)) {
    if (why_not) *why_not = "there is no such tier";
    return false;
  }
  unsigned missing = tiers[i].needs & ~detect();
  for (size_t n = 0; n < ZMI_COUNT(needs); n++) {
    if (!(missing & needs[n].bit)) continue;
    if (why_not) *why_not = needs[n].missing;
    return false;
  }
  if (why_not) *why_not = NULL;
  return true;
}

const zmi_kernels *zmi_kernels_find(const char *name) {
  if (!name || !*name) name = zmi_env("ZMLX_ISA");
  const zmi_kernels *best = tiers[0].kernels;
  zmi_text names = {0};
  for (size_t i = 0; i < ZMI_COUNT(tiers); i++) {
    const char *why;
    bool supported = zmi_tier_supported(i, &why);
    if (supported) best = tiers[i].kernels;
    zmi_text_add(&names, i ? ", %s" : "%s", tiers[i].kernels->name);
    if (!name || strcmp(name, tiers[i].kernels->name) != 0) continue;
    zmi_text_release(&names);
    if (supported) return tiers[i].kernels;
    zmi_fail(ZM_ERROR_UNSUPPORTED, "instruction set %s cannot be used on this machine: %s", name, why);
    return NULL;
  }
  if (name) zmi_fail(ZM_ERROR_ARGUMENT, "unknown instruction set %s: choose one of %s", name, zmi_text_str(&names));
  zmi_text_release(&names);
  return name ? NULL : best;
}
