// Any bytes as a definition of a kernel: a form, lists of names and a source, a line each for the lists. Refused with a message, or it has
// facts; its code for each dtype is refused with a message or verifies and prints; so are its derivatives, twice over.
#include "kernel/kernel.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_INSTRUCTIONS = 2000 }; // of what is differentiated twice

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_say_why(void) {
  if (zm_last_status() == ZM_OK || zm_last_error()[0] == 0) abort();
}

static char *next_line(char **at) { // NULL if it is empty
  char *line = *at, *end = strchr(line, '\n');
  *at = end ? end + 1 : line + strlen(line);
  if (end) *end = 0;
  return line[0] ? line : NULL;
}

static void check_code(const zmi_code *c, int order) {
  bool all[ZMI_CODE_MAX];
  memset(all, true, sizeof all);
  zmi_text text = {0};
  if (zmi_code_verify(c) != ZM_OK || zmi_code_print(c, &text) != ZM_OK || text.size == 0) abort();
  zmi_text_release(&text);
  if (order == 0 || c->count > MOST_INSTRUCTIONS) return;
  for (int reverse = 0; reverse < 2; reverse++) {
    zmi_code *d = reverse ? zmi_code_vjp(c, all, all) : zmi_code_jvp(c, all);
    if (d) {
      check_code(d, order - 1);
    } else {
      must_say_why();
    }
    zmi_code_free(d);
  }
}

static void check_kernel(const zmi_kernel *k) {
  const zmi_kernel_facts *f = zmi_kernel_facts_of(k);
  static const zm_dtype dtypes[] = {ZM_F32, ZM_BF16, ZM_I8, ZM_U64, ZM_BOOL};
  for (size_t t = 0; t < ZMI_COUNT(dtypes); t++) {
    zm_dtype in[ZMI_KERNEL_IN], result[ZMI_KERNEL_OUT] = {ZM_DTYPE_DEFAULT};
    for (int i = 0; i < f->nin; i++) in[i] = dtypes[(t + (size_t)i / 2) % ZMI_COUNT(dtypes)];
    zmi_code *c = zmi_kernel_code(k, in, result);
    if (!c) {
      must_say_why();
      continue;
    }
    for (int o = 0; o < f->nout; o++) {
      if (result[o] == ZM_DTYPE_DEFAULT) abort();
    }
    check_code(c, t == 0 ? 2 : 0);
    zmi_code_free(c);
  }
  if (f->form >= ZMI_FORM_TILES) {
    const int64_t shape[] = {3, 0, 1000};
    zmi_type in[ZMI_KERNEL_IN], out[ZMI_KERNEL_OUT];
    const double params[ZMI_KERNEL_PARAMS] = {4, 7, -1};
    int64_t groups, threads;
    for (int i = 0; i < f->nin; i++) in[i] = zmi_type_of(ZM_F16, 3, shape);
    if (zmi_kernel_shapes(k, in, params, out) != ZM_OK) must_say_why();
    if (zmi_kernel_grid(k, in, params, &groups, &threads) != ZM_OK) must_say_why();
  }
}

// First byte: the form, and whether lists are given. Then a line each: inputs, outputs, parameters; for tiles the shape, groups and
// threads. The rest is the source.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  char *text = malloc(size + 1), *at = text;
  if (size == 0 || text == NULL) {
    free(text);
    return 0;
  }
  memcpy(text, data, size);
  text[size] = 0;
  zmi_kernel_text t = {.name = "fuzz", .form = (zmi_form)((unsigned char)*at % 3)};
  if (*at) at++;
  t.inputs = next_line(&at);
  t.outputs = next_line(&at);
  t.parameters = next_line(&at);
  if (t.form == ZMI_FORM_TILES) {
    const char *shape = next_line(&at);
    for (int o = 0; o < ZMI_KERNEL_OUT; o++) t.shape[o] = shape;
    t.groups = next_line(&at);
    t.threads = next_line(&at);
  }
  t.source = at;
  zmi_kernel *k = zmi_kernel_define(&t);
  if (k) {
    check_kernel(k);
  } else {
    must_say_why();
  }
  zmi_kernel_release(k);
  free(text);
  return 0;
}
