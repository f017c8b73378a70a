// Names of the kernel language: functions, types, what is built in; and the nearest one to a name that does not exist.
#include "kernel/parse.h"

#include <stdio.h>
#include <string.h>

#define ONE(name, op)                                                                                                                      \
  { name, 1, ZMI_K_##op, NULL }
#define TWO(name, op)                                                                                                                      \
  { name, 2, ZMI_K_##op, NULL }
#define TEXT(name, operands, text)                                                                                                         \
  { name, operands, -1, text }
static const zmi_function functions[] = {
    ONE("abs", ABS),
    ONE("fabs", ABS),
    ONE("sign", SIGN),
    TWO("min", MIN),
    TWO("max", MAX),
    TWO("fmin", MIN),
    TWO("fmax", MAX),
    TWO("fmod", REM),
    {"fma", 3, ZMI_K_FMA, NULL},
    ONE("sqrt", SQRT),
    ONE("rsqrt", RSQRT),
    ONE("exp", EXP),
    ONE("exp2", EXP2),
    ONE("expm1", EXPM1),
    ONE("log", LOG),
    ONE("log2", LOG2),
    ONE("log10", LOG10),
    ONE("log1p", LOG1P),
    ONE("sin", SIN),
    ONE("cos", COS),
    ONE("tan", TAN),
    ONE("asin", ASIN),
    ONE("acos", ACOS),
    ONE("atan", ATAN),
    TWO("atan2", ATAN2),
    ONE("sinh", SINH),
    ONE("cosh", COSH),
    ONE("tanh", TANH),
    ONE("asinh", ASINH),
    ONE("acosh", ACOSH),
    ONE("atanh", ATANH),
    ONE("erf", ERF),
    ONE("erfinv", ERFINV),
    ONE("sigmoid", SIGMOID),
    ONE("silu", SILU),
    ONE("softplus", SOFTPLUS),
    TWO("pow", POW),
    TWO("powr", POW),
    ONE("floor", FLOOR),
    ONE("ceil", CEIL),
    ONE("round", ROUND),
    ONE("rint", ROUND),
    ONE("trunc", TRUNC),
    TWO("copysign", COPYSIGN),
    ONE("round_f16", ROUND_F16),
    ONE("round_bf16", ROUND_BF16),
    ONE("popcount", POPCOUNT),
    ONE("isnan", ISNAN),
    ONE("isinf", ISINF),
    ONE("isfinite", ISFINITE),
    TEXT("detach", 1, "as_type<float>(as_type<int>(float(a)))"),
    TEXT("erfc", 1, "1 - erf(a)"),
    TEXT("select", 3, "c ? b : a"),
    TEXT("clamp", 3, "min(max(a, b), c)"),
    TEXT("saturate", 1, "min(max(a, 0.0), 1.0)"),
    TEXT("mix", 3, "a + (b - a) * c"),
    TEXT("lerp", 3, "a + (b - a) * c"),
    TEXT("step", 2, "b < a ? 0.0 : 1.0"),
    TEXT("fract", 1, "a - floor(a)"),
    TEXT("smoothstep", 3, "square(saturate((c - a) / (b - a))) * (3.0 - 2.0 * saturate((c - a) / (b - a)))"),
    TEXT("fdim", 2, "a <= b ? 0.0 : a - b"),
    TEXT("max3", 3, "max(a, max(b, c))"),
    TEXT("min3", 3, "min(a, min(b, c))"),
    TEXT("median3", 3, "max(min(a, b), min(max(a, b), c))"),
    TEXT("fmax3", 3, "max(a, max(b, c))"),
    TEXT("fmin3", 3, "min(a, min(b, c))"),
    TEXT("fmedian3", 3, "max(min(a, b), min(max(a, b), c))"),
    TEXT("exp10", 1, "pow(10.0, a)"),
    // Two factors that are powers of two, each a normal number.
    TEXT("ldexp", 2,
         "a * as_type<float>((min(max(int(b), -252), 254) / 2 + 127) << 23) * as_type<float>((min(max(int(b), -252), 254) - "
         "min(max(int(b), -252), 254) / 2 + 127) << 23)"),
    // What is left after whole half turns is exact, so that the results keep their digits far away and near their zeros.
    TEXT("sinpi", 1, "(1.0 - 2.0 * (round(a) - 2.0 * floor(0.5 * round(a)))) * sin(3.14159265358979324 * (a - round(a)))"),
    TEXT(
        "cospi", 1,
        "(1.0 - 2.0 * (round(a) - 2.0 * floor(0.5 * round(a)))) * (abs(a - round(a)) <= 0.25 ? cos(3.14159265358979324 * (a - round(a))) : "
        "sin(3.14159265358979324 * (0.5 - abs(a - round(a)))))"),
    TEXT("tanpi", 1, "sinpi(a) / cospi(a)"),
    {"mad", 3, ZMI_K_FMA, NULL},
    TEXT("divide", 2, "float(a) / b"),
    TEXT("absdiff", 2, "max(a, b) - min(a, b)"),
    TEXT("signbit", 1, "as_type<int>(float(a)) < 0"),
    TEXT("isnormal", 1, "isfinite(a) && abs(float(a)) >= FLT_MIN"),
    TEXT("isordered", 2, "!isnan(a) && !isnan(b)"),
    TEXT("isunordered", 2, "isnan(a) || isnan(b)"),
    TEXT("ctz", 1, "popcount((a & -a) - 1)"),
    TEXT("square", 1, "a * a"),
    TEXT("reciprocal", 1, "1.0 / a"),
    TEXT("relu", 1, "max(a, 0)"),
    TEXT("relu2", 1, "square(max(a, 0))"),
    TEXT("gelu_erf", 1, "0.5 * a * (1.0 + erf(a * 0.70710678118654752))"),
    TEXT("gelu", 1, "0.5 * a * (1.0 + erf(a * 0.70710678118654752))"),
    TEXT("gelu_tanh", 1, "a * sigmoid(a * fma(0.071354816272600247, a * a, 1.5957691216057308))"),
    // tanh(softplus(a)) = n / (n + 2) with n = e^a (e^a + 2), which is 1 from a = 10 on. (A comparison of a itself with what is chosen
    // would be one of integers: emit_text.c.)
    TEXT("mish", 1,
         "a * (exp(a + a > 20.0 ? 10.0 : a) * (exp(a + a > 20.0 ? 10.0 : a) + 2.0) / "
         "(exp(a + a > 20.0 ? 10.0 : a) * (exp(a + a > 20.0 ? 10.0 : a) + 2.0) + 2.0))"),
    TEXT("log_sigmoid", 1, "-softplus(-a)"),
    // -abs(a - b) as the minimum whose slope at equal operands goes with that of the maximum: 1/2 for each.
    TEXT("logaddexp", 2, "isinf(a) && a == b ? a : max(a, b) + log1p(exp(min(b - a, a - b)))"),
};

static const struct {
  const char *name;
  int type;
} types[] = {
    {"bool", ZMI_C_BOOL},      {"int", ZMI_C_INT},         {"uint", ZMI_C_UINT},
    {"long", ZMI_C_LONG},      {"ulong", ZMI_C_ULONG},     {"float", ZMI_C_FLOAT},
    {"half", ZMI_W_HALF},      {"bfloat", ZMI_W_BFLOAT},   {"T", ZMI_W_T},
    {"int32_t", ZMI_C_INT},    {"uint32_t", ZMI_C_UINT},   {"int64_t", ZMI_C_LONG},
    {"size_t", ZMI_C_ULONG},   {"uint64_t", ZMI_C_ULONG},  {"float32", ZMI_C_FLOAT},
    {"float16", ZMI_W_HALF},   {"bfloat16", ZMI_W_BFLOAT}, {"bfloat16_t", ZMI_W_BFLOAT},
    {"float16_t", ZMI_W_HALF}, {"float32_t", ZMI_C_FLOAT}, {"char", ZMI_W_I8},
    {"uchar", ZMI_W_U8},       {"short", ZMI_W_I16},       {"ushort", ZMI_W_U16},
    {"int8_t", ZMI_W_I8},      {"uint8_t", ZMI_W_U8},      {"int16_t", ZMI_W_I16},
    {"uint16_t", ZMI_W_U16},
};

static const struct {
  const char *name;
  float value;
} constants[] = {
#define BOTH(name, value)                                                                                                                  \
  {name, value}, {                                                                                                                         \
    name "_F", value                                                                                                                       \
  }
    {"INFINITY", __builtin_inff()},
    {"HUGE_VALF", __builtin_inff()},
    {"NAN", __builtin_nanf("")},
    {"PI", 3.14159265358979324f},
    BOTH("M_E", 2.71828182845904524f),
    BOTH("M_LOG2E", 1.44269504088896341f),
    BOTH("M_LOG10E", 0.43429448190325183f),
    BOTH("M_LN2", 0.69314718055994531f),
    BOTH("M_LN10", 2.30258509299404568f),
    BOTH("M_PI", 3.14159265358979324f),
    BOTH("M_PI_2", 1.57079632679489662f),
    BOTH("M_PI_4", 0.78539816339744831f),
    BOTH("M_1_PI", 0.31830988618379067f),
    BOTH("M_2_PI", 0.63661977236758134f),
    BOTH("M_2_SQRTPI", 1.12837916709551257f),
    BOTH("M_SQRT2", 1.41421356237309505f),
    BOTH("M_SQRT1_2", 0.70710678118654752f),
    {"MAXFLOAT", 0x1.fffffep127f},
    {"FLT_MAX", 0x1.fffffep127f},
    {"FLT_MIN", 0x1p-126f},
    {"FLT_EPSILON", 0x1p-23f},
    {"HALF_MAX", 65504},
    {"MAXHALF", 65504},
    {"HALF_MIN", 0x1p-14f},
    {"HALF_EPSILON", 0x1p-10f},
#undef BOTH
};

static const struct {
  const char *name;
  zmi_ctype type;
  int64_t value;
} whole_constants[] = {
    {"SCHAR_MAX", ZMI_C_INT, INT8_MAX},  {"SCHAR_MIN", ZMI_C_INT, INT8_MIN},  {"UCHAR_MAX", ZMI_C_INT, UINT8_MAX},
    {"SHRT_MAX", ZMI_C_INT, INT16_MAX},  {"SHRT_MIN", ZMI_C_INT, INT16_MIN},  {"USHRT_MAX", ZMI_C_INT, UINT16_MAX},
    {"INT_MAX", ZMI_C_INT, INT32_MAX},   {"INT_MIN", ZMI_C_INT, INT32_MIN},   {"UINT_MAX", ZMI_C_UINT, UINT32_MAX},
    {"LONG_MAX", ZMI_C_LONG, INT64_MAX}, {"LONG_MIN", ZMI_C_LONG, INT64_MIN}, {"ULONG_MAX", ZMI_C_ULONG, -1},
};

static const struct {
  const char *name;
  zmi_cop op;
  int forms; // bit per form
  int level;
} leaves[] = {
    {"i", ZMI_K_PLACE, 1 << ZMI_FORM_ELEMENTS | 1 << ZMI_FORM_ROWS, 1},
    {"D", ZMI_K_LENGTH, 1 << ZMI_FORM_ROWS, 0},
    {"thread", ZMI_K_THREAD, 1 << ZMI_FORM_TILES, 0},
    {"group", ZMI_K_GROUP, 1 << ZMI_FORM_TILES, 0},
    {"threads", ZMI_K_THREADS, 1 << ZMI_FORM_TILES, 0},
    {"groups", ZMI_K_GROUPS, 1 << ZMI_FORM_TILES, 0},
    {"thread_position_in_threadgroup", ZMI_K_THREAD, 1 << ZMI_FORM_TILES, 0},
    {"threadgroup_position_in_grid", ZMI_K_GROUP, 1 << ZMI_FORM_TILES, 0},
    {"threads_per_threadgroup", ZMI_K_THREADS, 1 << ZMI_FORM_TILES, 0},
    {"threadgroups_per_grid", ZMI_K_GROUPS, 1 << ZMI_FORM_TILES, 0},
    {"thread_index_in_threadgroup", ZMI_K_THREAD, 1 << ZMI_FORM_TILES, 0},
    {"dispatch_threads_per_threadgroup", ZMI_K_THREADS, 1 << ZMI_FORM_TILES, 0},
};

static bool same(const char *name, const char *text, uint32_t size) {
  return strlen(name) == size && memcmp(name, text, size) == 0;
}

static bool is_constant(const char *name, uint32_t size) {
  return (size > 2 && memcmp(name, "M_", 2) == 0) || (size > 4 && memcmp(name, "FLT_", 4) == 0) ||
         (size > 5 && memcmp(name, "HALF_", 5) == 0);
}

// Types of C and of Metal that the language has not.
static bool is_other_type(const char *name, uint32_t size) {
  static const char *const words[] = {"unsigned", "signed", "double", "float2", "float3", "float4", "half2",   "half4",
                                      "int2",     "int4",   "uint2",  "uint3",  "uint4",  "device", "constant"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (same(words[i], name, size)) return true;
  }
  return false;
}

bool zmi_is_other_word(const char *name, uint32_t size) {
  static const char *const words[] = {"while", "do", "return", "break", "continue"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (same(words[i], name, size)) return true;
  }
  return false;
}

bool zmi_is_reserved(const char *name, uint32_t size) {
  static const char *const words[] = {"for",       "if",   "else",  "while",  "do",          "return",   "let",  "auto",  "const",
                                      "constexpr", "true", "false", "shared", "threadgroup", "elements", "join", "break", "continue"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (same(words[i], name, size)) return true;
  }
  return zmi_type_find(name, size) >= 0;
}

// Words of C and of C++, which is what Metal sources are written in: no name there is one of these.
static bool is_word_of_c(const char *name, uint32_t size) {
  static const char *const words[] = {"alignas",  "alignof",     "asm",     "case",      "catch",     "class",     "const_cast",
                                      "decltype", "default",     "delete",  "enum",      "explicit",  "extern",    "dynamic_cast",
                                      "friend",   "goto",        "inline",  "mutable",   "namespace", "new",       "noexcept",
                                      "nullptr",  "operator",    "private", "protected", "public",    "register",  "restrict",
                                      "sizeof",   "static",      "struct",  "switch",    "template",  "this",      "reinterpret_cast",
                                      "throw",    "static_cast", "try",     "typedef",   "typename",  "typeid",    "union",
                                      "using",    "virtual",     "void",    "volatile",  "NULL",      "ptrdiff_t", "as_type"};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (same(words[i], name, size)) return true;
  }
  return false;
}

bool zmi_is_no_input(const char *name, uint32_t size) {
  return is_constant(name, size) || is_other_type(name, size) || zmi_is_other_word(name, size) || zmi_is_reserved(name, size) ||
         is_word_of_c(name, size);
}

void zmi_unknown_word(zmi_parser *p, uint32_t begin, uint32_t end) {
  static const struct {
    const char *word, *says;
  } words[] = {
      {"return", "is not part of the language: a source ends with its expression, or assigns its results by their names; in tiles a "
                 "branch that stands outermost may end with it"},
      {"continue", "stands at the end of a branch that is directly in the braces of a loop"},
      {"break", "stands at the end of a branch that is directly in the braces of a loop"},
      {"while", "is not part of the language: a loop has a bound, as in 'for (int n = 0; n < 100; n++) { if (!(condition)) break; ... }'"},
      {"do", "is for 'do { } while (0)' only: a loop has a bound, as in 'for (int n = 0; n < 100; n++) { ... if (condition) break; }'"},
  };
  for (size_t i = 0; i < ZMI_COUNT(words); i++)
    if (same(words[i].word, p->source + begin, end - begin)) zmi_parse_fail(p, begin, end, "'%s' %s", words[i].word, words[i].says);
}

const zmi_function *zmi_function_find(const char *name, uint32_t size, int operands, bool *known) {
  if (size > 3 && memcmp(name, "kk_", 3) == 0) name += 3, size -= 3;
  const zmi_function *found = NULL;
  *known = false;
  for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
    if (!same(functions[i].name, name, size)) continue;
    *known = true;
    if (functions[i].operands == operands || !found) found = &functions[i];
    if (functions[i].operands == operands) break;
  }
  return found;
}

int zmi_type_find(const char *name, uint32_t size) {
  for (size_t i = 0; i < ZMI_COUNT(types); i++) {
    if (same(types[i].name, name, size)) return types[i].type;
  }
  return -1;
}

int32_t zmi_symbol_add(zmi_parser *p, zmi_symbol symbol) {
  zmi_kernel *k = p->k;
  if (k->symbol_count >= ZMI_SYMBOL_LIMIT) {
    zmi_parse_fail(p, p->token.begin, p->token.end, "more than %d names", ZMI_SYMBOL_LIMIT);
    return -1;
  }
  if (!ZMI_GROW(k->symbols, k->symbol_capacity, k->symbol_count + 1)) {
    p->failed = true;
    return -1;
  }
  k->symbols[k->symbol_count] = symbol;
  return (int32_t)k->symbol_count++;
}

int32_t zmi_symbol_find(const zmi_parser *p, const char *name, uint32_t size) {
  for (size_t i = p->k->symbol_count; i-- > 0;) {
    const zmi_symbol *s = &p->k->symbols[i];
    if (!s->hidden && s->size == size && memcmp(s->name, name, size) == 0) return (int32_t)i;
  }
  return -1;
}

bool zmi_symbols_builtin(zmi_parser *p) {
  for (size_t i = 0; i < ZMI_COUNT(constants); i++) {
    zmi_symbol s = {.name = constants[i].name, .size = (uint32_t)strlen(constants[i].name), .kind = ZMI_Y_CONST, .known_after = -1};
    s.value = constants[i].value;
    if (zmi_symbol_add(p, s) < 0) return false;
  }
  for (size_t i = 0; i < ZMI_COUNT(whole_constants); i++) {
    const char *name = whole_constants[i].name;
    zmi_symbol s = {.name = name, .size = (uint32_t)strlen(name), .kind = ZMI_Y_CONST, .known_after = -1};
    s.type = (uint8_t)whole_constants[i].type;
    s.number = whole_constants[i].value;
    if (zmi_symbol_add(p, s) < 0) return false;
  }
  for (size_t i = 0; i < ZMI_COUNT(leaves); i++) {
    if (!(leaves[i].forms >> p->k->facts.form & 1)) continue;
    zmi_symbol s = {.name = leaves[i].name, .size = (uint32_t)strlen(leaves[i].name), .kind = ZMI_Y_LEAF, .known_after = -1};
    s.index = (int32_t)leaves[i].op;
    s.level = (uint8_t)(leaves[i].level && p->k->facts.form == ZMI_FORM_ROWS);
    if (zmi_symbol_add(p, s) < 0) return false;
  }
  return true;
}

// ---- numeric_limits<type>::name() ----

static const struct {
  const char *name;
  int64_t whole[5]; // bool, int, uint, long, ulong
  float real[3];    // float, half, bfloat
  int32_t cut[4];   // char, uchar, short, ushort
} limits[] = {
    {"max", {1, INT32_MAX, UINT32_MAX, INT64_MAX, -1}, {0x1.fffffep127f, 65504, 0x1.fep127f}, {INT8_MAX, UINT8_MAX, INT16_MAX, UINT16_MAX}},
    {"lowest", {0, INT32_MIN, 0, INT64_MIN, 0}, {-0x1.fffffep127f, -65504, -0x1.fep127f}, {INT8_MIN, 0, INT16_MIN, 0}},
    {"min", {0, INT32_MIN, 0, INT64_MIN, 0}, {0x1p-126f, 0x1p-14f, 0x1p-126f}, {INT8_MIN, 0, INT16_MIN, 0}},
    {"epsilon", {0}, {0x1p-23f, 0x1p-10f, 0x1p-7f}, {0}},
    {"round_error", {0}, {0.5f, 0.5f, 0.5f}, {0}},
    {"infinity", {0}, {__builtin_inff(), __builtin_inff(), __builtin_inff()}, {0}},
    {"quiet_NaN", {0}, {__builtin_nanf(""), __builtin_nanf(""), __builtin_nanf("")}, {0}},
    {"signaling_NaN", {0}, {__builtin_nanf(""), __builtin_nanf(""), __builtin_nanf("")}, {0}}, // there is one NaN
    {"denorm_min", {0}, {0x1p-149f, 0x1p-24f, 0x1p-133f}, {0}},
};

float zmi_limit_of(int which, zm_dtype dtype) {
  return limits[which].real[dtype == ZM_F16 ? 1 : dtype == ZM_BF16 ? 2 : 0];
}

int32_t zmi_limit(zmi_parser *p, zmi_token name) {
  zmi_lex(p);
  const zmi_token written = p->token;
  const int type = written.kind == ZMI_T_NAME ? zmi_type_find(p->source + written.begin, written.end - written.begin) : -1;
  if (type < 0) {
    zmi_parse_fail(p, written.begin, written.end, "a type is expected: " ZMI_TYPE_WORDS);
    return -1;
  }
  zmi_lex(p);
  if (!zmi_expect(p, ">", "the type") || !zmi_expect(p, ":", "numeric_limits<type>") || !zmi_expect(p, ":", "numeric_limits<type>:"))
    return -1;
  const zmi_token wanted = p->token;
  size_t which = 0;
  while (which < ZMI_COUNT(limits) && !zmi_token_is(p, limits[which].name)) which++;
  if (which == ZMI_COUNT(limits)) {
    zmi_parse_fail(p, wanted.begin, wanted.end,
                   "max(), lowest(), min(), epsilon(), round_error(), infinity(), quiet_NaN() or denorm_min() is expected after '::'");
    return -1;
  }
  zmi_lex(p);
  if (!zmi_expect(p, "(", limits[which].name) || !zmi_expect(p, ")", "'('")) return -1;
  const zmi_ctype computed = zmi_written_type(type);
  const int32_t n = zmi_node_new(p, type == ZMI_W_T ? ZMI_N_LIMIT : ZMI_N_NUMBER, name.begin);
  if (n < 0) return -1;
  zmi_node *node = &p->k->nodes[n];
  node->op = (int32_t)which;
  node->type = (uint8_t)computed;
  if (type >= ZMI_W_I8)
    node->whole = limits[which].cut[type - ZMI_W_I8];
  else if (computed != ZMI_C_FLOAT)
    node->whole = limits[which].whole[type - ZMI_C_BOOL];
  else
    node->real = zmi_limit_of((int)which, type == ZMI_W_HALF ? ZM_F16 : type == ZMI_W_BFLOAT ? ZM_BF16 : ZM_F32);
  return n;
}

// ---- the nearest name ----
static int distance(const char *a, uint32_t m, const char *b, uint32_t n) { // insertions, deletions, changes; names are short
  int row[33];
  if (m > 32 || n > 32) return 99;
  for (uint32_t j = 0; j <= n; j++) row[j] = (int)j;
  for (uint32_t i = 1; i <= m; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (uint32_t j = 1; j <= n; j++) {
      int change = diagonal + (a[i - 1] != b[j - 1]), other = ZMI_MIN(row[j], row[j - 1]) + 1;
      diagonal = row[j];
      row[j] = ZMI_MIN(change, other);
    }
  }
  return row[n];
}

typedef struct nearest {
  const char *name;
  uint32_t size;
  int distance;
} nearest;

static void consider(nearest *best, const char *wanted, uint32_t wanted_size, const char *name, uint32_t size) {
  int d = distance(wanted, wanted_size, name, size);
  if (d < best->distance) *best = (nearest){name, size, d};
}

void zmi_unknown_name(zmi_parser *p, uint32_t begin, uint32_t end, bool function) {
  const char *wanted = p->source + begin;
  uint32_t size = end - begin;
  if (zmi_is_other_word(wanted, size)) {
    zmi_unknown_word(p, begin, end);
    return;
  }
  if (is_other_type(wanted, size)) {
    zmi_parse_fail(p, begin, end, "unknown type '%.*s': the types are " ZMI_TYPE_WORDS, (int)size, wanted);
    return;
  }
  if (!function && zmi_type_find(wanted, size) >= 0) {
    zmi_parse_fail(p, begin, end, "'%.*s' is a type, and a value is expected: a conversion is '%.*s(x)'", (int)size, wanted, (int)size,
                   wanted);
    return;
  }
  if (!function && (zmi_is_reserved(wanted, size) || is_word_of_c(wanted, size))) {
    zmi_parse_fail(p, begin, end, "'%.*s' is a word of %s, and a value is expected", (int)size, wanted,
                   zmi_is_reserved(wanted, size) ? "the language" : "C that is not in the language");
    return;
  }
  nearest best = {NULL, 0, size > 3 ? 3 : size > 1 ? 2 : 1}; // one letter is like any other
  for (size_t i = 0; i < ZMI_COUNT(functions) && function; i++) {
    consider(&best, wanted, size, functions[i].name, (uint32_t)strlen(functions[i].name));
  }
  for (size_t i = 0; i < p->k->symbol_count && !function; i++) {
    const zmi_symbol *s = &p->k->symbols[i];
    if (!s->hidden) consider(&best, wanted, size, s->name, s->size);
  }
  const char *what = function ? "function" : is_constant(wanted, size) ? "constant" : "name";
  int shown = (int)ZMI_MIN(size, 60u);
  if (best.name) {
    zmi_parse_fail(p, begin, end, "unknown %s '%.*s'; did you mean '%.*s'?", what, shown, wanted, (int)best.size, best.name);
  } else {
    zmi_parse_fail(p, begin, end, "unknown %s '%.*s'", what, shown, wanted);
  }
}
