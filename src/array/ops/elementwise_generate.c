// Runs while the library is built: writes a C file with a function for each row of elementwise_table.h and each dtype that is computed
// apart, as the kernel room emits them, and a table of these functions. The file is then compiled for each CPU tier.
//   elementwise_generate OUTPUT
#include "array/ops/elementwise_table.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <string.h>

static const struct row {
  const char *word, *operands;
  bool truth;
  const char *floats, *integers, *bools;
} rows[] = {
#define SAME false
#define TRUTH true
#define X(word, operands, result, floats, integers, bools, rounding) {#word, operands, result, floats, integers, bools},
    ZMI_ELEMENTWISE_LIST(X)
#undef X
};

static const char *source_of(const struct row *r, zm_dtype dtype) {
  if (dtype == ZM_F32) return r->floats;
  if (dtype == ZM_F16 || dtype == ZM_BF16) return ""; // through float32
  return dtype == ZM_BOOL ? r->bools : r->integers;
}

static bool emit_one(const struct row *r, zm_dtype dtype, bool first, zmi_text *out) {
  const char *source = source_of(r, dtype);
  zm_dtype in[4], result[ZMI_KERNEL_OUT] = {r->truth ? ZM_BOOL : dtype};
  for (size_t i = 0; i < ZMI_COUNT(in); i++) in[i] = dtype;
  const zmi_kernel_text text = {.name = r->word,
                                .form = ZMI_FORM_ELEMENTS,
                                .inputs = r->operands,
                                .outputs = strchr(source, ';') ? "y" : NULL,
                                .source = source,
                                .result = {result[0]}};
  zmi_kernel *kernel = zmi_kernel_define(&text);
  zmi_code *code = kernel ? zmi_kernel_code(kernel, in, result) : NULL;
  zmi_text_add(out, "#define zk_elements EW_JOIN(ew_%s_%s_, ZMI_TIER)\n", r->word, zm_dtype_name(dtype));
  const bool done = code && code->nin <= (int)ZMI_COUNT(in) && zmi_emit(code, ZMI_TARGET_C, !first, out) == ZM_OK;
  zmi_text_add(out, "#undef zk_elements\n\n");
  if (!done) fprintf(stderr, "elementwise_table.h, row %s for %s: %s\n", r->word, zm_dtype_name(dtype), zm_last_error());
  zmi_code_free(code);
  zmi_kernel_release(kernel);
  return done;
}

static void emit_table(zmi_text *out) {
  zmi_text_add(out,
               "typedef void (*ew_fn)(int64_t, const void *const *, const int *, const double *, void *const *, int);\n"
               "const ew_fn EW_JOIN(zmi_elementwise_, ZMI_TIER)[][%d] = {\n",
               ZM_DTYPE_COUNT);
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    zmi_text_add(out, "  {");
    for (int d = ZM_DTYPE_DEFAULT; d < ZM_DTYPE_COUNT; d++) {
      if (d > ZM_DTYPE_DEFAULT && source_of(&rows[i], (zm_dtype)d)[0])
        zmi_text_add(out, "EW_JOIN(ew_%s_%s_, ZMI_TIER), ", rows[i].word, zm_dtype_name((zm_dtype)d));
      else
        zmi_text_add(out, "0, ");
    }
    zmi_text_add(out, "},\n");
  }
  zmi_text_add(out, "};\n");
}

int main(int count, char **arguments) {
  zmi_text out = {0};
  bool done = count == 2, first = true; // the prelude comes with the first one
  zmi_text_add(&out, "#define EW_JOIN_OF(a, b) a##b\n#define EW_JOIN(a, b) EW_JOIN_OF(a, b)\n");
  for (size_t i = 0; i < ZMI_COUNT(rows) && done; i++) {
    for (int d = ZM_BOOL; d < ZM_DTYPE_COUNT && done; d++) {
      if (!source_of(&rows[i], (zm_dtype)d)[0]) continue;
      done = emit_one(&rows[i], (zm_dtype)d, first, &out);
      first = false;
    }
  }
  if (done) emit_table(&out);
  FILE *file = done && !out.failed ? fopen(arguments[1], "w") : NULL;
  done = file && fwrite(out.data, 1, out.size, file) == out.size;
  if (file && fclose(file) != 0) done = false;
  zmi_text_release(&out);
  return done ? 0 : 1;
}
