// Training a small network with AdamW: two spirals that a network of two layers learns to tell apart.
#include <math.h>
#include <stdio.h>
#include <zmlx/zmlx.h>

enum { POINTS = 256, HIDDEN = 48, STEPS = 400, PARAMETERS = 4 };

typedef struct data {
  zm_array *points, *labels; // [POINTS, 2], int32 [POINTS]
} data;

static data spirals(void) {
  static float points[POINTS][2];
  static int32_t labels[POINTS];
  for (int i = 0; i < POINTS; i++) {
    const float t = 0.4f + 5.0f * (float)(i / 2) / (POINTS / 2), turn = i % 2 ? 3.14159265f : 0;
    points[i][0] = t / 3 * cosf(t + turn);
    points[i][1] = t / 3 * sinf(t + turn);
    labels[i] = i % 2;
  }
  return (data){zm_array_from_data(points, ZM_F32, (int64_t[]){POINTS, 2}, 2), zm_array_from_data(labels, ZM_I32, (int64_t[]){POINTS}, 1)};
}

// in: weight [2, HIDDEN], bias [HIDDEN], weight [HIDDEN, 2], bias [2] -> the mean loss and the logits
static zm_status network(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  const data *d = user;
  (void)nin, (void)nout;
  zm_array *h = zm_mish(zm_add(zm_matmul(d->points, in[0]), in[1]));
  out[1] = zm_add(zm_matmul(h, in[2]), in[3]);
  out[0] = zm_mean(zm_softmax_cross_entropy(out[1], d->labels, -1), 0, false);
  return out[0] ? ZM_OK : zm_last_status();
}

// Parameters and their two moments.
typedef struct state {
  zm_array *p[PARAMETERS], *m[PARAMETERS], *v[PARAMETERS];
} state;

static void start(state *s) {
  const int64_t shapes[PARAMETERS][2] = {{2, HIDDEN}, {HIDDEN}, {HIDDEN, 2}, {2}};
  zm_array *keys[PARAMETERS] = {NULL}; // each matrix has its own: one key gives the same numbers twice
  zm_random_split2(zm_random_key(7), &keys[0], &keys[2]);
  for (int i = 0; i < PARAMETERS; i++) {
    const int rank = i % 2 ? 1 : 2;
    s->m[i] = zm_full(0, ZM_F32, shapes[i], rank);
    s->v[i] = zm_full(0, ZM_F32, shapes[i], rank);
    s->p[i] = zm_full(0, ZM_F32, shapes[i], rank);
    zm_array *most = zm_full(i == 0 ? 2.5 : 0.3, ZM_F32, NULL, 0);
    if (rank == 2) s->p[i] = zm_random_uniform(keys[i], zm_negative(most), most, ZM_F32, shapes[i], rank);
  }
}

// One step; what stays is moved out of the step's scope, everything else goes with it.
static double step(data *d, state *s, int number) {
  zm_scope *scope = zm_scope_open();
  zm_array *out[2], *gradients[PARAMETERS], *rate = zm_full(0.02, ZM_F32, NULL, 0), *count = zm_full(number, ZM_F32, NULL, 0);
  state next;
  bool ok = zm_value_and_grad(network, d, s->p, PARAMETERS, (int[]){0, 1, 2, 3}, PARAMETERS, out, 2, gradients) == ZM_OK;
  for (int i = 0; i < PARAMETERS && ok; i++) {
    ok = zm_adamw_step(s->p[i], gradients[i], s->m[i], s->v[i], rate, count, NULL, &next.p[i], &next.m[i], &next.v[i]) == ZM_OK;
  }
  double loss = NAN;
  if (ok) {
    zm_array *all[1 + 3 * PARAMETERS] = {out[0]};
    for (int i = 0; i < PARAMETERS; i++) {
      all[1 + 3 * i] = zm_scope_return(scope, next.p[i]);
      all[2 + 3 * i] = zm_scope_return(scope, next.m[i]);
      all[3 + 3 * i] = zm_scope_return(scope, next.v[i]);
    }
    if (zm_eval(all, 1 + 3 * PARAMETERS) == ZM_OK) loss = zm_array_item(out[0]);
    for (int i = 0; i < PARAMETERS; i++) {
      zm_array_drop(s->p[i]);
      zm_array_drop(s->m[i]);
      zm_array_drop(s->v[i]);
    }
    *s = next;
  }
  zm_scope_close(scope);
  return loss;
}

static bool train(void) {
  data d = spirals();
  state s;
  start(&s);
  double loss = NAN;
  for (int i = 1; i <= STEPS; i++) {
    loss = step(&d, &s, i);
    if (isnan(loss)) return false;
    if (i == 1 || i % 100 == 0) printf("step %3d  loss %.4f\n", i, loss);
  }
  zm_array *out[2];
  if (network(&d, s.p, PARAMETERS, out, 2) != ZM_OK) return false;
  zm_array *right = zm_equal(zm_astype(zm_argmax(out[1], -1, false), ZM_I32), d.labels);
  const double share = zm_array_item(zm_mean(zm_astype(right, ZM_F32), 0, false));
  printf("%.1f%% of %d points\n", 100 * share, POINTS);
  return loss < 0.1 && share > 0.95;
}

int main(void) {
  zm_scope *scope = zm_scope_open();
  bool ok = scope && train();
  if (!ok) fprintf(stderr, "%s\n", zm_last_error());
  zm_scope_close(scope);
  return ok ? 0 : 1;
}
