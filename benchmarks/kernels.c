// Rates of the CPU kernels beside a plain read of the same memory, interleaved: weights streamed from memory, packing, and row helpers
// from cache.
//   kernels [--isa NAME] [--threads N] [--megabytes N] [--rounds N]
#include "backend/backend.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { K = 2048, SHAPES = 16 };

typedef struct work {
  const zmi_kernels *kernels;
  zmi_format format;
  const char *blocks;
  size_t block_bytes;
  int64_t count; // blocks
  int rows;      // 0: plain read
  const void *x[ZMI_ROWS];
  zm_dtype x_dtype;
  float *y;
  uint64_t sink[64];
} work;

static uint64_t state = 88172645463325252ull;
static uint64_t next_random(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

typedef uint64_t lanes __attribute__((vector_size(64)));

static void work_part(void *user, int worker, int workers) {
  work *w = user;
  int64_t begin = w->count * worker / workers, end = w->count * (worker + 1) / workers;
  const char *at = w->blocks + (size_t)begin * w->block_bytes;
  if (w->rows == 0) {
    lanes a = {0}, b = {0};
    const lanes *p = (const lanes *)(const void *)at, *last = (const lanes *)(const void *)(w->blocks + (size_t)end * w->block_bytes);
    for (; p + 2 <= last; p += 2) a ^= p[0], b ^= p[1];
    a ^= b;
    w->sink[worker & 63] ^= a[0] ^ a[1] ^ a[2] ^ a[3] ^ a[4] ^ a[5] ^ a[6] ^ a[7];
    return;
  }
  for (int64_t b = begin; b < end; b += 8) { // a tile of the executor: 128 output rows
    int64_t n = ZMI_MIN(end - b, 8);
    float *y = w->y + b * ZMI_LANES;
    w->kernels->dot[w->format.mode](&w->format, w->blocks + (size_t)b * w->block_bytes, n, K, w->rows, w->x, w->x_dtype, y,
                                    w->count * ZMI_LANES);
  }
}

static double once(zmi_pool *pool, work *w, int rows) {
  w->rows = rows;
  double t = zmi_now();
  zmi_pool_run(pool, work_part, w);
  return zmi_now() - t;
}

// Random codes; scales near 1/64, so that no sum overflows.
static void fill(char *memory, size_t bytes, const zmi_format *f) {
  for (size_t i = 0; i + 8 <= bytes; i += 8) {
    uint64_t r = next_random();
    memcpy(memory + i, &r, 8);
  }
  const size_t whole = zmi_packed_block_bytes(f, K), scales = f->mode > ZMI_QUANT_AFFINE ? zmi_packed_code_bytes(f, K) : whole;
  for (size_t b = 0; b + whole <= bytes && scales < whole; b += whole)
    memset(memory + b + scales, f->mode == ZMI_QUANT_NVFP4 ? 8 : 121, whole - scales);
  if (scales < whole) return;
  size_t codes = f->mode == ZMI_QUANT_AFFINE ? (size_t)(f->group * f->bits * 2) : 0;
  size_t group = codes + (f->dtype == ZM_BF16 ? 64 : 128), size = zm_dtype_size((zm_dtype)f->dtype);
  for (size_t g = 0; g + group <= bytes; g += group) {
    for (size_t i = g + codes; i < g + group; i += size) {
      uint32_t v = 0x3c000000u | (uint32_t)(next_random() & 0x80ff0000u);
      memcpy(memory + i, (char *)&v + (4 - size), size);
    }
  }
}

static void stream(zmi_pool *pool, work *w, size_t bytes, int rounds, void *memory, const void *const x[3]) {
  char name[64];
  fill(memory, bytes, &w->format);
  bool affine = zmi_format_takes_digits(&w->format);
  w->blocks = memory;
  w->block_bytes = zmi_packed_block_bytes(&w->format, K);
  w->count = (int64_t)(bytes / w->block_bytes);
  size_t digits = affine ? zmi_digits_bytes(K, w->format.group, zmi_format_digits(&w->format)) : 0;
  for (int m = 0; m < ZMI_ROWS; m++) {
    w->x[m] = affine ? (const char *)x[2] + (size_t)m * digits
                     : (const char *)x[w->x_dtype == ZM_F32] + (size_t)(m * K) * zm_dtype_size(w->x_dtype);
    if (affine)
      w->kernels->digits((const float *)x[1] + m * K, K, w->format.group, zmi_format_digits(&w->format), (char *)(uintptr_t)w->x[m]);
  }
  double best[3] = {1e9, 1e9, 1e9};
  const int rows[3] = {0, 1, ZMI_ROWS};
  for (int r = 0; r < rounds; r++) {
    for (int i = 0; i < 3; i++) best[i] = fmin(best[i], once(pool, w, rows[i]));
  }
  double gb = (double)w->count * (double)w->block_bytes / 1e9, macs = (double)w->count * ZMI_LANES * K / 1e9;
  const char *x_name = !affine ? zm_dtype_name(w->x_dtype) : w->format.digits ? "1 digit" : "digits";
  printf("%-18s x %-8s plain read %5.1f GB/s; 1 row %5.1f GB/s = %3.0f%%; 4 rows %5.1f GB/s, %4.0f G multiply-adds/s\n",
         zmi_format_text(&w->format, name), x_name, gb / best[0], gb / best[1], 100 * best[0] / best[1], gb / best[2], 4 * macs / best[2]);
}

// ---- packing ----

typedef struct packing {
  zmi_format format;
  zmi_stored_matrix matrix;
  char *packed;
} packing;

static void pack_part(void *user, int worker, int workers) {
  packing *p = user;
  int64_t blocks = p->matrix.n / ZMI_LANES;
  zmi_pack_blocks(&p->format, &p->matrix, p->packed, blocks * worker / workers, blocks * (worker + 1) / workers);
}

static void pack(zmi_pool *pool, zmi_format format, zm_dtype stored, char *memory, size_t bytes, int rounds) {
  bool affine = format.mode == ZMI_QUANT_AFFINE;
  packing p = {format, {memory, NULL, NULL, stored, 0, K}, memory + bytes / 2};
  size_t row = affine ? (size_t)(K * format.bits / 8) : K * zm_dtype_size(stored), scales = affine ? K / (size_t)format.group * 2 : 0;
  p.matrix.n = (int64_t)(bytes / 2 / (row + 2 * scales) / 32 * ZMI_LANES);
  p.matrix.scales = memory + (size_t)p.matrix.n * row;
  p.matrix.biases = (const char *)p.matrix.scales + (size_t)p.matrix.n * scales;
  double best = 1e9;
  for (int r = 0; r < rounds; r++) {
    double t = zmi_now();
    zmi_pool_run(pool, pack_part, &p);
    best = fmin(best, zmi_now() - t);
  }
  char name[64];
  printf("pack %-18s from %-8s %5.2f GB/s\n", zmi_format_text(&format, name), zm_dtype_name(stored),
         (double)p.matrix.n * (double)(row + 2 * scales) / best / 1e9);
}

// ---- row helpers ----

typedef struct row_case {
  const zmi_kernels *k;
  float *a, *b, *c;
  void *d;
} row_case;

static void do_digits(row_case *r) {
  r->k->digits(r->a, K, 64, 3, r->d);
}
static void do_load(row_case *r) {
  r->k->load(r->d, ZM_BF16, K, r->c);
}
static void do_store(row_case *r) {
  r->k->store(r->a, K, r->d, ZM_BF16);
}
static void do_round(row_case *r) {
  r->k->round(r->c, K, ZM_BF16);
}
static void do_rms_norm(row_case *r) {
  r->k->rms_norm(r->a, r->b, K, 1e-6f, r->c);
}
static void do_sum(row_case *r) {
  r->c[0] = r->k->sum(r->a, K);
}
static void do_max(row_case *r) {
  r->c[0] = r->k->max(r->a, K);
}
static void do_softmax(row_case *r) {
  r->k->softmax(r->c, K);
}
static void do_exp(row_case *r) {
  memcpy(r->c, r->a, K * 4), r->k->exp(r->c, K);
}
static void do_silu(row_case *r) {
  memcpy(r->c, r->a, K * 4), r->k->silu(r->c, K);
}
static void do_tanh(row_case *r) {
  memcpy(r->c, r->a, K * 4), r->k->tanh(r->c, K);
}
static void do_log(row_case *r) {
  memcpy(r->c, r->a, K * 4), r->k->log(r->c, K);
}
static void do_rope(row_case *r) {
  for (int h = 0; h < 16; h++) r->k->rope(r->c + h * 128, 128, false, r->a, r->b);
}
static void do_axpy(row_case *r) {
  r->k->axpy(0.5f, r->d, ZM_BF16, K, r->c);
}
static void do_multiply_add(row_case *r) {
  r->k->multiply_add(r->a, r->b, K, r->c);
}
static void attend(row_case *r, int queries) {
  float m[ZMI_QUERIES], s[ZMI_QUERIES];
  zmi_query query[ZMI_QUERIES];
  for (int i = 0; i < queries; i++) query[i] = (zmi_query){(char *)r->d + 256 * i, &m[i], &s[i], r->c + 128 * i};
  r->k->attend(query, queries, (char *)r->d + 4096, (char *)r->d + 4096 + 128 * 256, ZM_BF16, 128, 128, 0.1f, false);
}
static void do_attend(row_case *r) {
  attend(r, 1);
}
static void do_attend_four(row_case *r) {
  attend(r, ZMI_QUERIES);
}

static void rows(const zmi_kernels *k, char *memory, const float *x) {
  static const struct {
    const char *name;
    void (*run)(row_case *r);
  } cases[] = {{"digits g64", do_digits},
               {"load bf16", do_load},
               {"store bf16", do_store},
               {"round bf16", do_round},
               {"rms_norm", do_rms_norm},
               {"sum", do_sum},
               {"max", do_max},
               {"exp", do_exp},
               {"silu", do_silu},
               {"tanh", do_tanh},
               {"log", do_log},
               {"softmax", do_softmax},
               {"rope 16x128", do_rope},
               {"axpy bf16", do_axpy},
               {"multiply_add", do_multiply_add},
               {"attend 128x128 bf16", do_attend},
               {"attend four queries", do_attend_four}};
  row_case r = {k, (float *)(void *)memory, (float *)(void *)memory + K, (float *)(void *)memory + 2 * K, memory + 12 * K};
  unsigned saved = zmi_float_rule_enter();
  memcpy(r.a, x, K * 4);
  memcpy(r.b, x + K, K * 4);
  memcpy(r.c, x + 2 * K, K * 4);
  for (int i = 0; i < 128 * 256 + 4096; i++) k->store(x + i % K, 1, (uint16_t *)r.d + i, ZM_BF16);
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    double best = 1e9;
    for (int n = 0; n < 20; n++) {
      double t = zmi_now();
      for (int j = 0; j < 50; j++) cases[i].run(&r);
      best = fmin(best, (zmi_now() - t) / 50);
    }
    printf("%-20s %8.3f us for %d elements\n", cases[i].name, best * 1e6, K);
  }
  zmi_float_rule_leave(saved);
}

static const char *option(int argc, char **argv, const char *name, const char *otherwise) {
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], name) == 0) return argv[i + 1];
  }
  return otherwise;
}

int main(int argc, char **argv) {
  const zmi_kernels *k = zmi_kernels_find(option(argc, argv, "--isa", NULL));
  zmi_pool *pool = zmi_pool_new(atoi(option(argc, argv, "--threads", "0")));
  size_t bytes = (size_t)atol(option(argc, argv, "--megabytes", "600")) * 1000000 / 64 * 64;
  int rounds = atoi(option(argc, argv, "--rounds", "7"));
  const char *only = option(argc, argv, "--only", NULL);
  char *memory = zmi_block_alloc(bytes);
  float *x = zmi_block_alloc(ZMI_ROWS * K * 4);
  uint16_t *half = zmi_block_alloc(ZMI_ROWS * K * 2);
  void *digits = zmi_block_alloc(ZMI_ROWS * zmi_digits_bytes(K, 16, 3));
  float *y = zmi_block_alloc(bytes / K * 64 + 4096);
  if (!k || !pool || !memory || !x || !half || !digits || !y) {
    fprintf(stderr, "%s\n", zm_last_error());
    return 1;
  }
  for (int i = 0; i < ZMI_ROWS * K; i++) {
    half[i] = (uint16_t)(0x3a00 + next_random() % 0x500 + (next_random() & 1 ? 0x8000 : 0)); // ten binades
    x[i] = zmi_bf16_to_f32(half[i]);
  }
  printf("%s, %d threads\n", k->name, zmi_pool_workers(pool));
  const void *inputs[3] = {half, x, digits};
  static const int shapes[][2] = {{2, 64}, {3, 64}, {4, 32}, {4, 64}, {4, 128}, {5, 64}, {6, 64}, {8, 64}, {8, 128}};
  for (size_t i = 0; i < ZMI_COUNT(shapes); i++) {
    if (only && atoi(only) != shapes[i][0]) continue;
    for (int64_t one = 0; one < 2; one++) {
      work w = {.kernels = k, .format = {ZMI_QUANT_AFFINE, shapes[i][0], shapes[i][1], ZM_BF16, one}, .y = y};
      stream(pool, &w, bytes, rounds, memory, inputs);
    }
  }
  for (int mode = ZMI_QUANT_MXFP4; mode < ZMI_QUANT_MODE_COUNT; mode++) {
    work w = {.kernels = k, .format = {.mode = mode}, .x_dtype = ZM_F32, .y = y};
    if (zmi_codes_complete(&w.format) != ZM_OK || (only && atoi(only) != w.format.bits)) continue;
    w.format.dtype = ZM_BF16;
    stream(pool, &w, bytes, rounds, memory, inputs);
  }
  for (int i = 0; i < 3 && !(only && atoi(only) < 16); i++) {
    work w = {.kernels = k, .format = {ZMI_QUANT_NONE, 0, 0, i == 2 ? ZM_F32 : ZM_BF16, 0}, .x_dtype = i == 0 ? ZM_BF16 : ZM_F32, .y = y};
    stream(pool, &w, bytes, rounds, memory, inputs);
  }
  if (!only) {
    for (size_t i = 0; i < ZMI_COUNT(shapes); i++) {
      pack(pool, (zmi_format){ZMI_QUANT_AFFINE, shapes[i][0], shapes[i][1], ZM_BF16, 0}, ZM_BF16, memory, bytes, 2);
    }
    pack(pool, (zmi_format){ZMI_QUANT_NONE, 0, 0, ZM_BF16, 0}, ZM_BF16, memory, bytes, 2);
    pack(pool, (zmi_format){ZMI_QUANT_NONE, 0, 0, ZM_F32, 0}, ZM_F16, memory, bytes / 2, 2);
    rows(k, memory, x);
  }
  zmi_block_free(y, bytes / K * 64 + 4096);
  zmi_block_free(digits, ZMI_ROWS * zmi_digits_bytes(K, 16, 3));
  zmi_block_free(half, ZMI_ROWS * K * 2);
  zmi_block_free(x, ZMI_ROWS * K * 4);
  zmi_block_free(memory, bytes);
  zmi_pool_free(pool);
  return 0;
}
