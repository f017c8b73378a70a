// zm_scaled_dot_product_attention in pieces: the bits of the whole, gradients of every order through the pieces, batches, memory that does
// not grow with the square of the length, and messages. What it computes is the matter of test_catalog.
#include "catalog/catalog.h"
#include "transform_check.h"

#include <zmlx/zmlx.h>

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

static zm_array *numbers(uint64_t seed, zm_dtype dtype, const int64_t *shape, int rank) {
  zm_array *a = zm_random_normal(zm_random_key(seed), NULL, NULL, dtype, shape, rank);
  if (!a || zm_eval(&a, 1) != ZM_OK) fail_msg("%s", zm_last_error());
  return a;
}

enum { IN_PIECES = 64, WHOLE = 1 << 30 };

typedef struct setting {
  int64_t scores;
  bool causal;
  zm_array *mask; // bool
} setting;

// in: q, k, v, an additive mask if there is none in the setting, sinks
static zm_status attention(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const setting *s = user;
  (void)nin, (void)nout;
  const zm_attention_options o = {.causal = s->causal, .mask = s->mask ? s->mask : in[3], .sinks = in[4]};
  out[0] = zmi_attention_in_pieces(in[0], in[1], in[2], &o, s->scores);
  return out[0] ? ZM_OK : zm_last_status();
}

static zm_status whole_attention(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const setting *s = user;
  setting w = {.scores = WHOLE, .causal = s->causal, .mask = s->mask};
  return attention(&w, in, nin, out, nout);
}

static void make(zm_array *in[5], zm_dtype dtype, int64_t rows, int64_t length) {
  in[0] = numbers(1, dtype, SHAPE(2, 4, rows, 8));
  in[1] = numbers(2, dtype, SHAPE(2, 2, length, 8));
  in[2] = numbers(3, dtype, SHAPE(2, 2, length, 3));
  in[3] = numbers(4, dtype, SHAPE(4, rows, length));
  in[4] = numbers(5, dtype, SHAPE(4));
}

static void same_bits(const char *what, zm_array *a, zm_array *b) {
  size_t bytes;
  const void *x = a ? zm_array_data(a) : NULL, *y = b ? zm_array_data(b) : NULL;
  if (!x || !y) fail_msg("%s: %s", what, zm_last_error());
  assert_true(zmi_type_equal(&a->type, &b->type));
  assert_true(zmi_type_bytes(&a->type, &bytes));
  if (memcmp(x, y, bytes) != 0) fail_msg("%s: other bits", what);
}

static void near(const char *what, zm_array *a, zm_array *b, double atol) {
  zm_array *good = zm_allclose(zm_astype(a, ZM_F32), zm_astype(b, ZM_F32), 1e-4, atol, false);
  if (!good) fail_msg("%s: %s", what, zm_last_error());
  if (zm_array_item(good) != 1) fail_msg("%s: not near", what);
}

static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
static const struct { int64_t rows, length; } sizes[] = {{50, 50}, {33, 70}, {60, 20}};

static void pieces_change_no_bit(void **state) {
  (void)state;
  for (size_t t = 0; t < ZMI_COUNT(dtypes); t++) {
    for (size_t z = 0; z < ZMI_COUNT(sizes); z++) {
      for (int kind = 0; kind < 4; kind++) {
        char where[96];
        zm_scope *scope = zm_scope_open();
        zm_array *in[5], *y[2];
        make(in, dtypes[t], sizes[z].rows, sizes[z].length);
        setting s = {.scores = IN_PIECES, .causal = kind & 1};
        if (kind & 2) s.mask = zm_greater(in[3], zm_full(-0.5, ZM_F32, NULL, 0));
        snprintf(where, sizeof where, "%s, %d rows, kind %d", zm_dtype_name(dtypes[t]), (int)sizes[z].rows, kind);
        MUST(attention(&s, in, 5, &y[0], 1), "%s", where);
        MUST(whole_attention(&s, in, 5, &y[1], 1), "%s", where);
        same_bits(where, y[0], y[1]);
        zm_scope_close(scope);
      }
    }
  }
}

// The gradient by all operands, and the gradient of its squares: cotangents of pieces are added in another order.
static zm_status all_gradients(zm_function f, void *user, zm_array *const *in, zm_array **gradients) {
  zm_array *y;
  return zm_vjp(f, user, in, 5, NULL, &y, 1, gradients);
}

typedef struct inner {
  zm_function f;
  void *user;
} inner;

static zm_status squares(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const inner *i = user;
  zm_array *gradients[5], *sum = NULL;
  (void)nin, (void)nout;
  zm_status status = all_gradients(i->f, i->user, in, gradients);
  for (int k = 0; k < 5 && status == ZM_OK; k++) {
    zm_array *part = zm_sum_axes(zm_square(gradients[k]), NULL, 0, false);
    sum = sum ? zm_add(sum, part) : part;
    if (!sum) status = zm_last_status();
  }
  out[0] = sum;
  return status;
}

static void gradients_of_pieces(void **state) {
  (void)state;
  for (int kind = 0; kind < 4; kind++) {
    char where[96];
    zm_scope *scope = zm_scope_open();
    zm_array *in[5], *a[5], *b[5];
    make(in, ZM_F32, 37, 40);
    setting s = {.scores = IN_PIECES, .causal = kind & 1};
    if (kind & 2) s.mask = zm_greater(in[3], zm_full(-0.5, ZM_F32, NULL, 0));
    MUST(all_gradients(attention, &s, in, a), "kind %d", kind);
    MUST(all_gradients(whole_attention, &s, in, b), "kind %d", kind);
    for (int k = 0; k < 5; k++) {
      snprintf(where, sizeof where, "kind %d, gradient %d", kind, k);
      near(where, a[k], b[k], 1e-5);
    }
    inner pieces = {attention, &s}, whole = {whole_attention, &s};
    MUST(zm_grad(squares, &pieces, in, 5, (int[]){0, 1, 2, 3, 4}, 5, a), "kind %d", kind);
    MUST(zm_grad(squares, &whole, in, 5, (int[]){0, 1, 2, 3, 4}, 5, b), "kind %d", kind);
    for (int k = 0; k < 5; k++) {
      snprintf(where, sizeof where, "kind %d, second gradient %d", kind, k);
      near(where, a[k], b[k], 1e-3);
    }
    zm_scope_close(scope);
  }
}

// q, k and v of a batch; the mask and sinks are shared.
static void batches_of_pieces(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *in[5], *many[5], *y, *one;
  setting s = {.scores = IN_PIECES, .causal = true};
  make(in, ZM_F32, 20, 24);
  for (int k = 0; k < 5; k++) {
    if (k > 2) {
      many[k] = in[k];
      continue;
    }
    many[k] = zm_stack((zm_array *[]){in[k], zm_negative(in[k]), zm_square(in[k])}, 3, 0);
  }
  MUST(zm_vmap(attention, &s, many, 5, (int[]){0, 0, 0, ZM_NO_AXIS, ZM_NO_AXIS}, &y, 1, NULL), "vmap");
  for (int64_t i = 0; i < 3; i++) {
    zm_array *slice[5] = {NULL, NULL, NULL, in[3], in[4]};
    for (int k = 0; k < 3; k++) slice[k] = zm_take(many[k], zm_full((double)i, ZM_I32, NULL, 0));
    MUST(attention(&s, slice, 5, &one, 1), "slice");
    same_bits("a slice of a batch", zm_contiguous(zm_take(y, zm_full((double)i, ZM_I32, NULL, 0))), one);
  }
  zm_scope_close(scope);
}

// One matrix of scores of all heads would have 32 MB.
static void memory_is_that_of_pieces(void **state) {
  (void)state;
  const uint64_t scores = 8ull * 1024 * 1024 * sizeof(float);
  zm_scope *scope = zm_scope_open();
  zm_array *in[3], *out[1], *gradients[3];
  for (int k = 0; k < 3; k++) in[k] = numbers((uint64_t)k, ZM_F32, SHAPE(1, 8, 1024, 8));
  setting s = {.scores = 1 << 17};
  zm_array *all[5] = {in[0], in[1], in[2], NULL, NULL};
  const uint64_t before = zm_memory_active();
  zm_memory_reset_peak();
  MUST(attention(&s, all, 5, &out[0], 1), "attention");
  MUST(zm_eval(out, 1), "attention");
  if (zm_memory_peak() - before > scores / 4) fail_msg("forwards: %llu bytes", (unsigned long long)(zm_memory_peak() - before));
  setting more = s;
  zm_memory_reset_peak();
  const uint64_t then = zm_memory_active();
  zm_array *five[5] = {in[0], in[1], in[2], zm_full(0, ZM_F32, NULL, 0), zm_zeros(ZM_F32, (int64_t[]){8}, 1)};
  zm_array *g[5];
  MUST(all_gradients(attention, &more, five, g), "gradients");
  for (int k = 0; k < 3; k++) gradients[k] = g[k];
  MUST(zm_eval(gradients, 3), "gradients");
  if (zm_memory_peak() - then > scores / 2) fail_msg("backwards: %llu bytes", (unsigned long long)(zm_memory_peak() - then));
  zm_scope_close(scope);
}

static void refused(zm_array *y, const char *words) {
  assert_null(y);
  if (!strstr(zm_last_error(), words)) fail_msg("\"%s\" does not say: %s", zm_last_error(), words);
  zm_clear_error();
}

static void messages(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *q = numbers(1, ZM_F32, SHAPE(1, 4, 3, 8)), *k = numbers(2, ZM_F32, SHAPE(1, 2, 5, 8));
  zm_array *three = numbers(2, ZM_F32, SHAPE(1, 3, 5, 8)), *flat = numbers(3, ZM_F32, SHAPE(4, 8));
  refused(zm_scaled_dot_product_attention(NULL, k, k, NULL), "scaled_dot_product_attention: q is NULL");
  refused(zm_scaled_dot_product_attention(flat, k, k, NULL), "q: expected [batch, heads, length, dim], found float32[4, 8]");
  refused(zm_scaled_dot_product_attention(zm_astype(q, ZM_I32), k, k, NULL), "q: expected a float dtype, found int32");
  refused(zm_scaled_dot_product_attention(q, three, three, NULL), "q: 4 heads are no multiple of the 3 of k");
  refused(zm_scaled_dot_product_attention(q, k, three, NULL), "v: expected shape [1, 2, 5, any]");
  refused(zm_scaled_dot_product_attention(q, k, k, &(zm_attention_options){.mask = flat}), "mask: float32[4, 8] does not fit");
  refused(zm_scaled_dot_product_attention(q, k, k, &(zm_attention_options){.mask = zm_zeros(ZM_I32, SHAPE(3, 5))}),
          "mask: expected a float dtype, found int32");
  refused(zm_scaled_dot_product_attention(q, k, k, &(zm_attention_options){.sinks = zm_zeros(ZM_F32, SHAPE(2))}),
          "sinks: expected shape [4]");
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(pieces_change_no_bit),
      cmocka_unit_test(gradients_of_pieces),
      cmocka_unit_test(batches_of_pieces),
      cmocka_unit_test(memory_is_that_of_pieces),
      cmocka_unit_test(messages),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
