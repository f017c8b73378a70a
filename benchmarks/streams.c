// What memory can do for a kernel that reads some arrays and writes others.
#include "bench.h"

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

enum { READS = 4, WRITES = 3, AHEAD = 4096, PASSES = 2, WORKERS = 1024 };
static size_t array_bytes; // of each array: alone beyond the caches

typedef struct streams {
  char *in[READS], *out[WRITES];
  int reads, writes;
  bool past, ahead;
  word sums[WORKERS]; // so that what is read is used
} streams;

// Line after line of all arrays. Called with constants, so that the inner loops are gone.
static inline __attribute__((always_inline)) word lines(const streams *s, size_t begin, size_t end, int reads, int writes, bool past,
                                                        bool ahead) {
  word sum[4];
  memset(sum, 0, sizeof sum);
  for (size_t at = begin; at < end; at += 64) {
    for (int r = 0; r < reads; r++) {
      const word *p = (const word *)(const void *)(s->in[r] + at);
      if (ahead) __builtin_prefetch(s->in[r] + at + AHEAD);
      for (int k = 0; k < 4; k++) sum[k] = XOR(sum[k], LOAD(p + k));
    }
    for (int w = 0; w < writes; w++) {
      word *p = (word *)(void *)(s->out[w] + at);
      for (int k = 0; k < 4; k++) {
        if (past)
          PAST(p + k, sum[k]);
        else
          STORE(p + k, sum[k]);
      }
    }
  }
  if (past) FENCE();
  return XOR(XOR(sum[0], sum[1]), XOR(sum[2], sum[3]));
}

#define PAIR(r, w)                                                                                                                         \
  if (s->reads == r && s->writes == w) {                                                                                                   \
    if (s->past)                                                                                                                           \
      sum = s->ahead ? lines(s, begin, end, r, w, true, true) : lines(s, begin, end, r, w, true, false);                                   \
    else                                                                                                                                   \
      sum = s->ahead ? lines(s, begin, end, r, w, false, true) : lines(s, begin, end, r, w, false, false);                                 \
  }
#define PAIRS PAIR(1, 0) PAIR(1, 1) PAIR(2, 1) PAIR(3, 1) PAIR(4, 1) PAIR(1, 2) PAIR(3, 2) PAIR(4, 3)

static void pass(void *user, int worker, int workers) {
  streams *s = user;
  const size_t all = array_bytes / 64, begin = all * (size_t)worker / (size_t)workers * 64,
               end = all * (size_t)(worker + 1) / (size_t)workers * 64;
  word sum;
  memset(&sum, 0, sizeof sum);
  PAIRS
  s->sums[worker % WORKERS] = sum;
}

static bool is_pair(int reads, int writes) {
#define FIND(r, w) (reads == r && writes == w) ||
#undef PAIR
#define PAIR(r, w) FIND(r, w)
  return PAIRS false;
}

static streams arrays; // kept for the next time

static bool prepare(int reads, int writes) {
  streams *s = &arrays;
  if (!is_pair(reads, writes)) return false;
  if (!array_bytes) array_bytes = ZMI_MAX((size_t)48 << 20, (size_t)(zmi_cache_bytes() * 3 / 2) / 4096 * 4096);
  for (int k = 0; k < reads + writes; k++) {
    char **a = k < reads ? &s->in[k] : &s->out[k - reads];
    if (!*a && !(*a = zmi_block_alloc(array_bytes))) return false;
    if (k < reads && !**a) memset(*a, 1, array_bytes);
  }
  s->reads = reads;
  s->writes = writes;
  return true;
}

static double rate_of(zmi_pool *pool, int way) {
  streams *s = &arrays;
  s->past = way & 1;
  s->ahead = way & 2;
  const double start = zmi_now();
  zmi_pool_run(pool, pass, s);
  return (double)(s->reads + s->writes) * (double)array_bytes / (zmi_now() - start) / 1e9;
}

bench_rates bench_stream(zmi_pool *pool, int reads, int writes) {
  bench_rates best = {0, 0};
  for (int run = 0; run < 4 * PASSES && (run > 0 || prepare(reads, writes)); run++) {
    double rate = rate_of(pool, run), *most = run & 1 ? &best.past : &best.plain;
    *most = ZMI_MAX(*most, rate);
  }
  return best;
}

double bench_stream_once(zmi_pool *pool, int reads, int writes, bool past) {
  if (!prepare(reads, writes)) return 0;
  const double a = rate_of(pool, past), b = rate_of(pool, 2 + past);
  return ZMI_MAX(a, b);
}
