// What memory can do for a kernel that reads some arrays and writes others.
#include "bench.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <emmintrin.h>
typedef __m128i word;
#define LOAD(p) _mm_load_si128(p)
#define XOR(a, b) _mm_xor_si128(a, b)
#define STORE(p, v) _mm_store_si128(p, v)
#define PAST(p, v) _mm_stream_si128(p, v)
#define FENCE() _mm_sfence()
#else
typedef struct word {
  uint64_t a, b;
} word;
#define LOAD(p) (*(p))
#define XOR(x, y) ((word){(x).a ^ (y).a, (x).b ^ (y).b})
#define STORE(p, v) (*(p) = (v))
#define PAST(p, v) (*(p) = (v))
#define FENCE() (void)0
#endif

// Pieces are taken as they come, as kernels' are: a core that others disturb would hold up a share cut beforehand. Ways to go through a
// piece: stores past the caches or plain, lines asked for ahead or not, line after line or a burst of reads and then one of writes. A thin
// array has a byte where the others have four: masks, codes.
enum { READS = 8, WRITES = 3, AHEAD = 4096, PASSES = 5, WORKERS = 1024, PIECE = 1 << 18, BURST = 4096 };
enum { THIN = 4 };
enum { PAST_CACHES = 1, ASKED_AHEAD = 2, IN_BURSTS = 4, WAYS = 8 };
static size_t array_bytes; // of each array: alone beyond the caches

typedef struct streams {
  char *in[READS], *out[WRITES], *thin;
  bench_arrays arrays;
  int way;
  _Atomic size_t next;
  word sums[WORKERS]; // so that what is read is used
} streams;

static inline __attribute__((always_inline)) void add_line(const char *from, size_t ahead, int way, word sum[4]) {
  const word *p = (const word *)(const void *)from;
  if (way & ASKED_AHEAD) __builtin_prefetch(from + ahead);
  for (int k = 0; k < 4; k++) sum[k] = XOR(sum[k], LOAD(p + k));
}

// The line at `at` of all arrays read into sum.
static inline __attribute__((always_inline)) void read_line(const streams *s, size_t at, int reads, int thin, int way, word sum[4]) {
  for (int r = 0; r < reads; r++) add_line(s->in[r] + at, AHEAD, way, sum);
  if (thin && at % (THIN * 64) == 0) add_line(s->thin + at / THIN, AHEAD / THIN, way, sum);
}

static inline __attribute__((always_inline)) void write_line(char *to, int way, const word sum[4]) {
  word *p = (word *)(void *)to;
  for (int k = 0; k < 4; k++) {
    if (way & PAST_CACHES)
      PAST(p + k, sum[k]);
    else
      STORE(p + k, sum[k]);
  }
}

// Called with constants, so that the inner loops are gone.
static inline __attribute__((always_inline)) word lines(const streams *s, size_t begin, size_t end, int reads, int writes, int thin,
                                                        int way) {
  const size_t burst = way & IN_BURSTS && writes ? BURST : 64;
  word sum[BURST / sizeof(word)];
  memset(sum, 0, sizeof sum);
  for (size_t at = begin; at < end; at += burst) {
    for (size_t i = 0; i < burst; i += 64) read_line(s, at + i, reads, thin, way, sum + i / sizeof(word));
    for (int w = 0; w < writes; w++) {
      for (size_t i = 0; i < burst; i += 64) write_line(s->out[w] + at + i, way, sum + i / sizeof(word));
    }
  }
  if (way & PAST_CACHES) FENCE();
  return XOR(XOR(sum[0], sum[1]), XOR(sum[2], sum[3]));
}

#define WAY(r, w, t, n)                                                                                                                    \
  case n: sum = lines(s, begin, end, r, w, t, n); break;
#define IS(r, w, t) (a.reads == r && a.writes == w && a.thin == t)
#define PAIR(r, w, t)                                                                                                                      \
  if (IS(r, w, t)) {                                                                                                                       \
    switch (s->way) {                                                                                                                      \
      WAY(r, w, t, 0) WAY(r, w, t, 1) WAY(r, w, t, 2) WAY(r, w, t, 3)                                                                      \
      WAY(r, w, t, 4) WAY(r, w, t, 5) WAY(r, w, t, 6) WAY(r, w, t, 7)                                                                      \
    }                                                                                                                                      \
  }
#define PAIRS                                                                                                                              \
  PAIR(1, 0, 0) PAIR(1, 1, 0) PAIR(2, 1, 0) PAIR(3, 1, 0) PAIR(4, 1, 0) PAIR(8, 1, 0) PAIR(1, 2, 0) PAIR(3, 2, 0) PAIR(4, 3, 0)            \
  PAIR(0, 1, 1) PAIR(1, 1, 1)

static void pass(void *user, int worker, int workers) {
  streams *s = user;
  const bench_arrays a = s->arrays;
  word sum;
  (void)workers;
  memset(&sum, 0, sizeof sum);
  for (size_t begin; (begin = atomic_fetch_add(&s->next, PIECE)) < array_bytes;) {
    const size_t end = ZMI_MIN(begin + PIECE, array_bytes);
    PAIRS
  }
  s->sums[worker % WORKERS] = sum;
}

static bool is_pair(bench_arrays a) {
#define FIND(r, w, t) IS(r, w, t) ||
#undef PAIR
#define PAIR(r, w, t) FIND(r, w, t)
  return PAIRS false;
}

static streams arrays; // kept for the next time

static bool have(char **a, size_t bytes) {
  if (*a) return true;
  *a = zmi_block_alloc(bytes);
  if (*a) memset(*a, 1, bytes);
  return *a != NULL;
}

static bool prepare(bench_arrays a) {
  streams *s = &arrays;
  bool good = is_pair(a);
  if (!array_bytes) array_bytes = ZMI_MAX((size_t)48 << 20, (size_t)(zmi_cache_bytes() * 3 / 2) / 4096 * 4096);
  for (int k = 0; k < a.reads && good; k++) good = have(&s->in[k], array_bytes);
  for (int k = 0; k < a.writes && good; k++) good = have(&s->out[k], array_bytes);
  if (a.thin && good) good = have(&s->thin, array_bytes / THIN);
  s->arrays = a;
  return good;
}

static double rate_of(zmi_pool *pool, int way) {
  streams *s = &arrays;
  const size_t bytes = (size_t)(s->arrays.reads + s->arrays.writes) * array_bytes + (size_t)s->arrays.thin * (array_bytes / THIN);
  s->way = way;
  atomic_store(&s->next, 0);
  const double start = zmi_now();
  zmi_pool_run(pool, pass, s);
  return (double)bytes / (zmi_now() - start) / 1e9;
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

bench_way bench_stream_way(zmi_pool *pool, bench_arrays a) {
  double rates[WAYS][PASSES];
  bench_way best = {-1, 0};
  if (!prepare(a)) return best;
  for (int run = 0; run < WAYS * PASSES; run++) rates[run % WAYS][run / WAYS] = rate_of(pool, run % WAYS);
  for (int way = 0; way < WAYS; way++) {
    qsort(rates[way], PASSES, sizeof *rates[way], by_size);
    if (rates[way][PASSES / 2] > best.rate) best = (bench_way){way, rates[way][PASSES / 2]};
  }
  return best;
}

double bench_stream_once(zmi_pool *pool, bench_arrays a, int way) {
  return prepare(a) ? rate_of(pool, way) : 0;
}
