// What stands in front of emitted kernels besides the prelude (zmi_prelude_text): spellings of a target as macros and functions named ze_.
#include "kernel/emit.h"

const char *const zmi_emit_before[ZMI_TARGET_COUNT] = {
    [ZMI_TARGET_C] = "",
    [ZMI_TARGET_CUDA] = "// -ftz=true -fmad=false -prec-div=true -prec-sqrt=true\n",
    [ZMI_TARGET_METAL] = "// without fast math\n"
                         "#include <metal_stdlib>\n"
                         "using namespace metal;\n",
};

// Constants that a compiler would reason away (x * 1 flushes a denormal) are kept from it. A comparison whose operands are then chosen from
// could become a maximum instruction, which flushes what it gives: there the order is that of integers, -0 being +0 and denormals zeros.
#define CHOICE                                                                                                                             \
  "ZK_FN zk_float ze_pick(zk_bool c, zk_float a, zk_float b) { return zk_of_bits(c ? zk_bits(a) : zk_bits(b)); }\n"                        \
  "ZK_FN zk_int ze_order(zk_float x) {\n"                                                                                                  \
  "  zk_uint u = zk_bits(x + 0.0f);\n"                                                                                                     \
  "  return (zk_int)(u ^ (u >> 31) * 0x7fffffffu);\n"                                                                                      \
  "}\n"                                                                                                                                    \
  "ZK_FN zk_bool ze_ordered(zk_float x, zk_float y) { return !zk_isnan(x) && !zk_isnan(y); }\n"                                            \
  "ZK_FN zk_bool ze_gt(zk_float x, zk_float y) { return ze_ordered(x, y) && ze_order(x) > ze_order(y); }\n"                                \
  "ZK_FN zk_bool ze_ge(zk_float x, zk_float y) { return ze_ordered(x, y) && ze_order(x) >= ze_order(y); }\n"                               \
  "ZK_FN zk_bool ze_lt(zk_float x, zk_float y) { return ze_gt(y, x); }\n"                                                                  \
  "ZK_FN zk_bool ze_le(zk_float x, zk_float y) { return ze_ge(y, x); }\n"

const char *const zmi_emit_after[ZMI_TARGET_COUNT] = {
    [ZMI_TARGET_C] = CHOICE "ZK_FN float ze_keep(float x) { __asm__(\"\" : \"+x\"(x)); return x; }\n"
                            "#if defined(__clang__)\n"
                            "#define ZK_LANES _Pragma(\"clang loop vectorize(assume_safety)\")\n"
                            "#else\n"
                            "#define ZK_LANES _Pragma(\"GCC ivdep\")\n"
                            "#endif\n",
    [ZMI_TARGET_CUDA] = CHOICE "ZK_FN float ze_keep(float x) { asm(\"\" : \"+f\"(x)); return x; }\n",
    [ZMI_TARGET_METAL] = CHOICE "#ifndef ZE_KEEP\n"
                                "#define ZE_KEEP(x) (x)\n"
                                "#endif\n"
                                "ZK_FN float ze_keep(float x) { return ZE_KEEP(x); }\n",
};

// C: reductions of a buffer of up to one chunk into 16 lanes, and of the lanes to one value (docs/numerics.md). Vectors have the machine's
// own size, which compilers handle best.
const char zmi_emit_lanes_c[] =
    "#if defined(__AVX512F__)\n"
    "#define ZE_WIDTH 16\n"
    "#elif defined(__AVX2__)\n"
    "#define ZE_WIDTH 8\n"
    "#else\n"
    "#define ZE_WIDTH 4\n"
    "#endif\n"
    "#define ZE_PARTS (16 / ZE_WIDTH)\n"
    "typedef float ze_floats __attribute__((vector_size(4 * ZE_WIDTH), aligned(4), may_alias));\n"
    "typedef zk_int ze_masks __attribute__((vector_size(4 * ZE_WIDTH), aligned(4), may_alias));\n"
    "#define ZE_VECTOR(p) (*(const ze_floats *)(const void *)(p))\n"
    "ZK_FN void ze_sum_float(float *acc, const float *x, zk_int n) {\n"
    "  ze_floats a[ZE_PARTS];\n"
    "  zk_int k = 0;\n"
    "  for (int i = 0; i < ZE_PARTS; i++) a[i] = ZE_VECTOR(acc + i * ZE_WIDTH);\n"
    "  for (; k + 16 <= n; k += 16)\n"
    "    for (int i = 0; i < ZE_PARTS; i++) a[i] += ZE_VECTOR(x + k + i * ZE_WIDTH);\n"
    "  for (int i = 0; i < ZE_PARTS; i++) *(ze_floats *)(void *)(acc + i * ZE_WIDTH) = a[i];\n"
    "  for (int i = 0; k + i < n; i++) acc[i] += x[k + i];\n"
    "}\n"
    "ZK_FN void ze_prod_float(float *acc, const float *x, zk_int n) {\n"
    "  zk_int k = 0;\n"
    "  for (; k + 16 <= n; k += 16)\n"
    "    for (int i = 0; i < 16; i++) acc[i] *= x[k + i];\n"
    "  for (int i = 0; k + i < n; i++) acc[i] *= x[k + i];\n"
    "}\n"
    "// Lanes 16..31 of acc: not zero once a NaN was seen in the lane.\n"
    "#define ZE_EXTREME(name, sign)                                                                         \\\n"
    "  ZK_FN void ze_##name##_float(float *acc, const float *x, zk_int n) {                                 \\\n"
    "    ze_masks a[ZE_PARTS], f[ZE_PARTS];                                                                 \\\n"
    "    zk_int k = 0;                                                                                      \\\n"
    "    for (int i = 0; i < ZE_PARTS; i++) a[i] = (ze_masks)ZE_VECTOR(acc + i * ZE_WIDTH);                 \\\n"
    "    for (int i = 0; i < ZE_PARTS; i++) f[i] = (ze_masks)ZE_VECTOR(acc + 16 + i * ZE_WIDTH);            \\\n"
    "    for (; k + 16 <= n; k += 16)                                                                       \\\n"
    "      for (int i = 0; i < ZE_PARTS; i++) {                                                             \\\n"
    "        ze_floats v = ZE_VECTOR(x + k + i * ZE_WIDTH);                                                 \\\n"
    "        ze_masks m = v sign (ze_floats)a[i];                                                           \\\n"
    "        a[i] = ((ze_masks)v & m) | (a[i] & ~m);                                                        \\\n"
    "        f[i] |= v != v;                                                                                \\\n"
    "      }                                                                                                \\\n"
    "    for (int i = 0; i < ZE_PARTS; i++) *(ze_floats *)(void *)(acc + i * ZE_WIDTH) = (ze_floats)a[i];   \\\n"
    "    for (int i = 0; i < ZE_PARTS; i++) *(ze_floats *)(void *)(acc + 16 + i * ZE_WIDTH) = (ze_floats)f[i]; \\\n"
    "    for (int i = 0; k + i < n; i++) {                                                                  \\\n"
    "      acc[i] = ze_pick(x[k + i] sign acc[i], x[k + i], acc[i]);                                        \\\n"
    "      if (zk_isnan(x[k + i])) acc[16 + i] = zk_of_bits(0xffffffffu);                                     \\\n"
    "    }                                                                                                  \\\n"
    "  }                                                                                                    \\\n"
    "  ZK_FN float ze_fold_##name##_float(const float *acc) {                                               \\\n"
    "    float r = acc[0];                                                                                  \\\n"
    "    zk_uint nan = 0;                                                                                   \\\n"
    "    for (int i = 0; i < 16; i++) nan |= zk_bits(acc[16 + i]);                                          \\\n"
    "    for (int i = 1; i < 16; i++) r = ze_pick(acc[i] sign r, acc[i], r);                                \\\n"
    "    return nan ? zk_of_bits(0x7fc00000u) : r + ze_keep(0.0f);                                            \\\n"
    "  }                                                                                                    \\\n"
    "  /* state: best value, its place + 1 (0: none yet), whether it is a NaN */                            \\\n"
    "  ZK_FN void ze_arg##name##_float(float *best, zk_int *at, const float *x, zk_int n, zk_int base) {    \\\n"
    "    if (*at && zk_isnan(*best)) return;                                                                \\\n"
    "    float part[32];                                                                                    \\\n"
    "    for (int i = 0; i < 16; i++) part[i] = 0.0f sign 1.0f ? __builtin_inff() : -__builtin_inff(), part[16 + i] = 0; \\\n"
    "    ze_##name##_float(part, x, n);                                                                     \\\n"
    "    float most = ze_fold_##name##_float(part);                                                         \\\n"
    "    if (*at && !zk_isnan(most) && !(most sign *best)) return;                                          \\\n"
    "    for (zk_int i = 0; i < n; i++)                                                                     \\\n"
    "      if (zk_isnan(most) ? zk_isnan(x[i]) : x[i] == most) {                                            \\\n"
    "        *best = most, *at = base + i + 1;                                                              \\\n"
    "        return;                                                                                        \\\n"
    "      }                                                                                                \\\n"
    "  }\n"
    "ZE_EXTREME(max, >)\n"
    "ZE_EXTREME(min, <)\n"
    "ZK_FN float ze_fold_sum_float(float *acc) {\n"
    "  for (int h = 8; h > 0; h /= 2)\n"
    "    for (int i = 0; i < h; i++) acc[i] += acc[i + h];\n"
    "  return acc[0];\n"
    "}\n"
    "ZK_FN float ze_fold_prod_float(float *acc) {\n"
    "  for (int h = 8; h > 0; h /= 2)\n"
    "    for (int i = 0; i < h; i++) acc[i] *= acc[i + h];\n"
    "  return acc[0];\n"
    "}\n"
    "#define ZE_INTEGERS(T, U)                                                                                                    \\\n"
    "  ZK_FN void ze_sum_##T(zk_##T *acc, const zk_##T *x, zk_int n) {                                                            \\\n"
    "    for (zk_int k = 0; k < n; k++) acc[0] = (zk_##T)((zk_##U)acc[0] + (zk_##U)x[k]);                                         \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN void ze_prod_##T(zk_##T *acc, const zk_##T *x, zk_int n) {                                                           \\\n"
    "    for (zk_int k = 0; k < n; k++) acc[0] = (zk_##T)((zk_##U)acc[0] * (zk_##U)x[k]);                                         \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN void ze_max_##T(zk_##T *acc, const zk_##T *x, zk_int n) {                                                            \\\n"
    "    for (zk_int k = 0; k < n; k++) acc[0] = x[k] > acc[0] ? x[k] : acc[0];                                                   \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN void ze_min_##T(zk_##T *acc, const zk_##T *x, zk_int n) {                                                            \\\n"
    "    for (zk_int k = 0; k < n; k++) acc[0] = x[k] < acc[0] ? x[k] : acc[0];                                                   \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN void ze_argmax_##T(zk_##T *best, zk_int *at, const zk_##T *x, zk_int n, zk_int base) {                               \\\n"
    "    for (zk_int k = 0; k < n; k++)                                                                                           \\\n"
    "      if (!*at || x[k] > *best) *best = x[k], *at = base + k + 1;                                                            \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN void ze_argmin_##T(zk_##T *best, zk_int *at, const zk_##T *x, zk_int n, zk_int base) {                               \\\n"
    "    for (zk_int k = 0; k < n; k++)                                                                                           \\\n"
    "      if (!*at || x[k] < *best) *best = x[k], *at = base + k + 1;                                                            \\\n"
    "  }                                                                                                                          \\\n"
    "  ZK_FN zk_##T ze_fold_sum_##T(const zk_##T *acc) { return acc[0]; }                                                         \\\n"
    "  ZK_FN zk_##T ze_fold_prod_##T(const zk_##T *acc) { return acc[0]; }                                                        \\\n"
    "  ZK_FN zk_##T ze_fold_max_##T(const zk_##T *acc) { return acc[0]; }                                                         \\\n"
    "  ZK_FN zk_##T ze_fold_min_##T(const zk_##T *acc) { return acc[0]; }\n"
    "ZE_INTEGERS(int, uint)\n"
    "ZE_INTEGERS(uint, uint)\n"
    "ZE_INTEGERS(long, ulong)\n"
    "ZE_INTEGERS(ulong, ulong)\n";
