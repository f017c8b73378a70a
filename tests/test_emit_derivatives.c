// Kernels of derivatives, emitted: tangents, gradients (with the kernels and the parts that they need) and those of gradients, of each row
// of the catalog that is one kernel and of the sources whose derivatives are checked against differences. Emitted C and Metal (run through
// the shim) give the interpreter's bits, emitted CUDA C compiles.
#include "derivative_cases.h"
#include "emit_run.h"

#include "catalog/catalog.h"

#include <stdio.h>

static int kinds[6]; // how many there are of each
static const char *const kind_names[] = {"tangents", "gradients", "kernels of values", "tangents of gradients", "gradients of gradients",
                                         "parts"};
static int bases; // codes whose derivatives were taken

static bool keep(zmi_code *c, int kind, const char *name) {
  const bool taken = !c || take(c, name);
  kinds[kind] += c != NULL;
  zmi_code_free(c);
  return taken;
}

// What a derivative can be taken of and by.
static void wants(const zmi_code *c, bool given[ZMI_CODE_MAX], bool wanted[ZMI_CODE_MAX]) {
  for (int i = 0; i < ZMI_CODE_MAX; i++) {
    wanted[i] = i < c->nin && zmi_ctype_of(c->in[i]) == ZMI_C_FLOAT;
    given[i] = i >= c->nout || zmi_ctype_of(c->out[i]) == ZMI_C_FLOAT;
  }
}

// The kernels of a gradient: one, after a kernel of values if need be, or those of two parts. Of a gradient in turn one of its own two
// derivatives.
static bool add_gradient(const zmi_code *c, bool second, const char *name) {
  enum { LONGEST = 150 }; // instructions, in the second order: compiling takes its time
  static int turn;
  bool given[ZMI_CODE_MAX], wanted[ZMI_CODE_MAX], taken;
  wants(c, given, wanted);
  zmi_code *traces, *vjp = zmi_code_vjp_traced(c, given, wanted, &traces);
  if (!vjp) {
    zmi_parts p;
    if (zmi_code_parts(c, wanted, &p) != ZM_OK || !p.first) return false;
    taken = add_gradient(p.rest, second, name) && add_gradient(p.first, second, name);
    return keep(p.first, 5, name) && keep(p.rest, 5, name) && taken;
  }
  taken = keep(traces, 2, name);
  if (!second && turn++ % 2) {
    taken = taken && add_gradient(vjp, true, name);
  } else if (!second) {
    wants(vjp, given, wanted);
    zmi_code *jvp = zmi_code_jvp(vjp, wanted); // some have none, as their function has none
    if (jvp && jvp->count > LONGEST) zmi_code_free(jvp), jvp = NULL;
    taken = keep(jvp, 3, name) && taken;
  }
  if (!second || vjp->count <= LONGEST) return keep(vjp, second ? 4 : 1, name) && taken;
  zmi_code_free(vjp);
  return taken;
}

// The derivatives of one code.
static bool add_derivatives(const zmi_code *c, const char *name) {
  bool given[ZMI_CODE_MAX], wanted[ZMI_CODE_MAX];
  wants(c, given, wanted);
  bases++;
  return keep(zmi_code_jvp(c, wanted), 0, name) && add_gradient(c, false, name);
}

static bool add_source(zmi_form form, const char *inputs, const char *outputs, const char *source) {
  const zmi_kernel_text text = {.name = "k", .form = form, .inputs = inputs, .outputs = outputs, .source = source};
  zm_dtype in[ZMI_KERNEL_IN];
  for (int i = 0; i < ZMI_KERNEL_IN; i++) in[i] = ZM_F32;
  zmi_kernel *k = zmi_kernel_define(&text);
  zmi_code *c = k ? zmi_kernel_code(k, in, NULL) : NULL;
  if (!c) print_error("%s: %s\n", source, zm_last_error());
  const bool added = c && add_derivatives(c, source);
  zmi_kernel_release(k);
  zmi_code_free(c);
  return added;
}

// Several functions in one kernel, as compiling many takes its time.
static bool add_functions(size_t first) {
  static char sources[16][1024];
  static const char *const outputs[] = {"", "p", "p q", "p q r", "p q r s", "p q r s t", "p q r s t u", "p q r s t u v"};
  enum { TOGETHER = ZMI_COUNT(outputs) - 1 };
  char *source = sources[first / TOGETHER], *at = source;
  const int count = (int)ZMI_MIN(TOGETHER, ZMI_COUNT(derivative_functions) - first);
  for (int k = 0; k < count; k++)
    at += snprintf(at, sizeof sources[0] - (size_t)(at - source), "%c = %s;\n", 'p' + k, derivative_functions[first + (size_t)k].source);
  return add_source(ZMI_FORM_ELEMENTS, "a b c", outputs[count], source);
}

static bool add_all(void) {
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_F16};
  const zmi_entry *e;
  bool added = true;
  for (size_t i = 0; added && (e = zmi_catalog_at(i, NULL)); i++) {
    zmi_code *c = e->definition ? zmi_entry_code(e, dtypes[i % 3]) : NULL;
    added = !e->definition || (c && (c->form == ZMI_FORM_TILES || add_derivatives(c, e->name)));
    zmi_code_free(c);
  }
  for (size_t i = 0; added && i < ZMI_COUNT(derivative_functions); i += 7) added = add_functions(i);
  for (size_t i = 0; added && i < ZMI_COUNT(derivative_loops); i++)
    added = add_source(ZMI_FORM_ELEMENTS, derivative_loops[i].inputs, derivative_loops[i].outputs, derivative_loops[i].source);
  for (size_t k = 0; k < ZMI_COUNT(derivative_rows); k++)
    for (size_t i = 0; added && i < derivative_rows[k].count; i++)
      added = add_source(ZMI_FORM_ROWS, "x w", "y", derivative_rows[k].sources[i]);
  return added;
}

static int set_up(void **state) {
  (void)state;
  if (!add_all()) {
    print_error("%s\n", zm_last_error());
    return -1;
  }
  emit_ways = 1u << INTERPRETED | 1u << C_BEST | 1u << METAL;
  emit_flag = " -O0";
  emit_many = true;
  return compile_all();
}

// Each code has a gradient, of one kernel or more; one has no tangent.
static void all_kinds_are_there(void **state) {
  (void)state;
  for (size_t k = 0; k < ZMI_COUNT(kinds); k++) print_message("# %s: %d\n", kind_names[k], kinds[k]);
  assert_true(kinds[1] >= bases + (int)ZMI_COUNT(derivative_parts));
  assert_int_equal(kinds[0], bases - 1);
  assert_true(kinds[2] >= (int)ZMI_COUNT(derivative_traced));
  assert_true(kinds[3] > bases / 3 && kinds[4] > bases / 3 && kinds[5] > 2 * (int)ZMI_COUNT(derivative_parts));
}

static void elements_agree(void **state) {
  (void)state;
  static const int64_t sizes[] = {1, 17, 600};
  compare_elements(sizes, ZMI_COUNT(sizes));
}

static void rows_agree(void **state) {
  (void)state;
  static const int64_t widths[] = {0, 1, 17, 600};
  compare_rows(widths, ZMI_COUNT(widths));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(c_is_compiled), cmocka_unit_test(all_kinds_are_there), cmocka_unit_test(elements_agree),
      cmocka_unit_test(rows_agree),    cmocka_unit_test(cuda_compiles),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
