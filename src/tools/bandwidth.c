// What the machine gives: the read bandwidth that decoding is measured against (the pool's workers read memory of their own, as decode
// kernels read weights), and the products of bytes that prompts are.
#include "tools/tools.h"

#include <string.h>

enum { PASSES = 6, WORKERS = 1024 };

struct zmi_bandwidth {
  zmi_pool *pool;
  uint64_t *data;
  size_t words;
  uint64_t sums[WORKERS][8]; // kept so that the reads are not removed; one cache line a worker
};

// Eight independent words of each line of a contiguous part.
static void read_part(void *user, int worker, int workers) {
  zmi_bandwidth *b = user;
  size_t lines = b->words / 8, begin = lines * (size_t)worker / (size_t)workers, end = lines * (size_t)(worker + 1) / (size_t)workers;
  uint64_t s[8] = {0};
  for (size_t i = begin; i < end; i++) {
    const uint64_t *line = b->data + i * 8;
    __builtin_prefetch(line + 1024);
    for (int k = 0; k < 8; k++) s[k] ^= line[k];
  }
  memcpy(b->sums[worker % WORKERS], s, sizeof s);
}

static void touch_part(void *user, int worker, int workers) {
  zmi_bandwidth *b = user;
  size_t begin = b->words * (size_t)worker / (size_t)workers, end = b->words * (size_t)(worker + 1) / (size_t)workers;
  memset(b->data + begin, 0x55, (end - begin) * 8);
}

zmi_bandwidth *zmi_bandwidth_new(zmi_pool *pool) {
  zmi_bandwidth *b = zmi_calloc(1, sizeof *b);
  if (!b) return NULL;
  // Beyond any cache; less on a machine short of memory, where measuring must not be what ends the process.
  const uint64_t most = (uint64_t)512 << 20, available = zmi_memory_available();
  size_t bytes = (size_t)(available ? ZMI_MIN(most, available / 4) : most) / 4096 * 4096 + 4096;
  b->pool = pool;
  b->words = bytes / 8;
  b->data = zmi_block_alloc(bytes);
  if (b->data) {
    zmi_pool_run(pool, touch_part, b);
    return b;
  }
  zmi_free(b);
  return NULL;
}

void zmi_bandwidth_free(zmi_bandwidth *b) {
  if (!b) return;
  zmi_block_free(b->data, b->words * 8);
  zmi_free(b);
}

double zmi_bandwidth_measure(zmi_bandwidth *b) {
  double best = 1e30;
  for (int pass = 0; pass < PASSES; pass++) {
    double t = zmi_now();
    zmi_pool_run(b->pool, read_part, b);
    t = zmi_now() - t;
    if (t < best) best = t;
  }
  return (double)b->words * 8 / best / 1e9;
}

// ---- products of bytes ----

typedef struct products {
  const zmi_kernels *kernels;
  int64_t rounds, count[WORKERS];
} products;

static void multiply_part(void *user, int worker, int workers) {
  products *p = user;
  int32_t sink[ZMI_LANES];
  (void)workers;
  const int64_t count = p->kernels->products(p->rounds, sink);
  if (worker < WORKERS) p->count[worker] = count + (sink[0] == INT32_MIN); // the sums are looked at, so they are made
}

double zmi_products_measure(zmi_pool *pool, const zmi_kernels *kernels) {
  products p = {.kernels = kernels, .rounds = 1000};
  double best = 0;
  for (int pass = 0; pass < PASSES; pass++) {
    double t = zmi_now();
    zmi_pool_run(pool, multiply_part, &p);
    t = zmi_now() - t;
    double all = 0;
    for (int i = 0; i < ZMI_MIN(zmi_pool_workers(pool), WORKERS); i++) all += (double)p.count[i];
    best = ZMI_MAX(best, all / t / 1e9);
    if (t < 3e-3) p.rounds = (int64_t)((double)p.rounds * ZMI_MIN(5e-3 / ZMI_MAX(t, 1e-6), 1000.0)); // to about 5 ms
  }
  return best;
}
