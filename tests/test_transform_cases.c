// Gradients, tangents, second derivatives and batches against results stored by scripts/make_transform_cases.py (MLX), on every CPU tier
// and with 1, 2 and 3 workers: the same bits there, and close to (or equal to) what is stored.
#include "cases.h"

#include <zmlx/transform.h>

static json_t *root;

enum { MOST = 8 };

#define F(name)                                                                                                                            \
  static zm_status f_##name(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {                                          \
    (void)user, (void)nin, (void)nout;
#define END                                                                                                                                \
  return out[0] ? ZM_OK : zm_last_status();                                                                                                \
  }

static zm_array *like(const zm_array *a, double v) {
  return zmi_scalar_like(a, v);
}

static zm_array *rows(zm_array *a, int64_t first, int64_t last, int64_t step) {
  return zm_slice(a, (int64_t[]){first, 0}, (int64_t[]){last, INT32_MAX}, (int64_t[]){step, 1});
}

// clang-format off
F(maximum) out[0] = zm_maximum(in[0], in[1]); END
F(minimum) out[0] = zm_minimum(in[0], in[1]); END
F(max) out[0] = zm_max(in[0], 1, false); END
F(min) out[0] = zm_min(in[0], 0, true); END
F(abs) out[0] = zm_abs(in[0]); END
F(where) out[0] = zm_where(zm_greater(in[0], like(in[0], 0)), in[1], in[2]); END
F(product) out[0] = zm_multiply(in[0], in[1]); END
F(sums) out[0] = zm_multiply(zm_sum(in[0], 1, false), zm_mean(in[0], 0, true)); END
F(rms_norm) out[0] = zmi_rms_norm(in[0], in[1], 1e-5); END

F(take)
  const int32_t index[] = {3, 0, 3, 3, 1};
  out[0] = zm_multiply(zm_take(in[0], zm_array_from_data(index, ZM_I32, (int64_t[]){5}, 1)), in[1]);
END

F(slices)
  zm_array *parts[2] = {rows(in[0], 1, 7, 2), zm_multiply(rows(in[0], 0, 3, 1), in[1])};
  parts[0] = zm_slice(parts[0], (int64_t[]){0, INT32_MAX}, (int64_t[]){INT32_MAX, -100}, (int64_t[]){1, -1});
  out[0] = zm_concatenate(parts, 2, 0);
END

F(broadcast)
  zm_array *a = zm_expand_dims(in[0], 1), *b = in[1];
  out[0] = zm_divide(zm_add(zm_multiply(a, b), zm_sqrt(zm_abs(a))), zm_add(zm_multiply(b, b), like(b, 1)));
END

F(functions)
  zm_array *x = in[0], *first = zm_multiply(zm_exp(x), zm_tanh(x)), *second = zm_divide(zm_log(x), zm_sqrt(x));
  out[0] = zm_subtract(zm_add(first, second), zm_multiply(zm_rsqrt(x), zm_sigmoid(x)));
END

F(mlp)
  zm_array *p = zm_softmax(zm_matmul(zm_silu(zm_matmul(in[0], in[1])), in[2]));
  out[0] = p ? zm_negative(zm_log(zm_slice(p, (int64_t[]){0, 0}, (int64_t[]){INT32_MAX, 1}, NULL))) : NULL;
END

F(layer_norm)
  zm_array *c = zm_subtract(in[0], zm_mean(in[0], -1, true));
  zm_array *r = zm_rsqrt(zm_add(zm_mean(zm_multiply(c, c), -1, true), like(c, 1e-3)));
  out[0] = zm_add(zm_multiply(zm_multiply(c, r), in[1]), in[2]);
END

F(attention)
  zm_array *turned = zmi_move_axis(in[1], zm_array_rank(in[1]) - 1, zm_array_rank(in[1]) - 2);
  out[0] = zm_matmul(zm_softmax(zm_multiply(zm_matmul(in[0], turned), like(in[0], 0.5))), in[2]);
END

static const struct { const char *name; zm_function f; } functions[] = {
#define ROW(name) {#name, f_##name},
    ROW(maximum) ROW(minimum) ROW(max) ROW(min) ROW(abs) ROW(where) ROW(product) ROW(sums) ROW(rms_norm) ROW(take) ROW(slices)
    ROW(broadcast) ROW(functions) ROW(mlp) ROW(layer_norm) ROW(attention)
};
// clang-format on

// The sum of the squares of the gradient of the sum of f.
typedef struct second {
  zm_function f;
  int nin;
} second;

static zm_array *total(zm_array *a) {
  return a ? zm_sum(zm_reshape(a, (int64_t[]){-1}, 1), 0, false) : NULL;
}

static zm_status sum_of(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const second *s = user;
  zm_status status = s->f(NULL, in, nin, out, nout);
  if (status == ZM_OK && !(out[0] = total(out[0]))) status = zm_last_status();
  return status;
}

static const int all[MOST] = {0, 1, 2, 3, 4, 5, 6, 7};

static zm_status squares(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  zm_array *g[MOST], *sum = NULL;
  zm_status status = zm_grad(sum_of, user, in, nin, all, nin, g);
  (void)nout;
  for (int i = 0; i < nin && status == ZM_OK; i++) {
    zm_array *part = total(zm_multiply(g[i], g[i]));
    sum = sum ? zm_add(sum, part) : part;
    if (!sum) status = zm_last_status();
  }
  out[0] = sum;
  return status;
}

static zm_status transform(const char *kind, const json_t *c, zm_function f, zm_array **in, int nin, zm_array **extra, zm_array **out) {
  if (strcmp(kind, "vjp") == 0) return zm_vjp(f, NULL, in, nin, extra, out, 1, out + 1);
  if (strcmp(kind, "jvp") == 0) return zm_jvp(f, NULL, in, nin, extra, out, 1, out + 1);
  if (strcmp(kind, "second") == 0) return zm_grad(squares, &(second){f, nin}, in, nin, all, nin, out);
  int axes[MOST], out_axis = (int)json_integer_value(json_object_get(c, "out_axis"));
  for (int i = 0; i < nin; i++) axes[i] = (int)json_integer_value(json_array_get(json_object_get(c, "axes"), (size_t)i));
  return zm_vmap(f, NULL, in, nin, axes, out, 1, &out_axis);
}

static int arrays(const json_t *list, zm_array **to) {
  const int n = (int)json_array_size(list);
  assert_true(n <= MOST);
  for (int i = 0; i < n; i++) to[i] = cases_array(json_array_get(list, (size_t)i));
  return n;
}

static void every_case(void **state) {
  size_t index;
  json_t *c;
  (void)state;
  json_array_foreach(root, index, c) {
    zm_scope *scope = zm_scope_open();
    zm_array *in[MOST], *extra[MOST] = {NULL}, *out[2 * MOST] = {NULL};
    const char *name = json_string_value(json_object_get(c, "fn")), *kind = json_string_value(json_object_get(c, "kind"));
    zm_function f = NULL;
    char what[128];
    for (size_t i = 0; i < ZMI_COUNT(functions); i++) {
      if (strcmp(functions[i].name, name) == 0) f = functions[i].f;
    }
    snprintf(what, sizeof what, "case %d, %s of %s", (int)index, kind, name);
    assert_non_null(f);
    const int nin = arrays(json_object_get(c, "in"), in);
    arrays(json_object_get(c, "extra"), extra);
    if (transform(kind, c, f, in, nin, extra, out) != ZM_OK) fail_msg("%s: %s", what, zm_last_error());
    const json_t *wanted = json_object_get(c, "out");
    for (size_t o = 0; o < json_array_size(wanted); o++) {
      snprintf(what, sizeof what, "case %d, %s of %s, result %d", (int)index, kind, name, (int)o);
      cases_compare(what, out[o], json_array_get(wanted, o), json_number_value(json_object_get(c, "tol")),
                    json_number_value(json_object_get(c, "floor")));
    }
    zm_scope_close(scope);
  }
  assert_true(index > 60);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_case),
  };
  root = cases_load("tests/data/transform_cases.json");
  if (!root || play_open() != 0) return 1;
  int failed = cmocka_run_group_tests_name("transform_cases", tests, NULL, NULL);
  play_close();
  json_decref(root);
  return failed;
}
