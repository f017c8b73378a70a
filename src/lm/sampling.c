// The sampler: from one row of logits to one token. The steps and their order are written in lm.h; everything here is IEEE arithmetic in a
// fixed order with the library's own exp and log, so that a seed gives the same token on every machine and for every number of threads.
#include "lm/lm.h"

#include <inttypes.h>
#include <math.h> // INFINITY, isnan, isfinite: classification only
#include <string.h>

typedef struct seen_token {
  int32_t token;
  bool generated; // false: it came with the prompt
} seen_token;

// Whole weights of so many tokens, of at most 2^40 each, add up to less than 2^63.
enum { MOST_VOCAB = 1 << 23 };

struct zmi_sampler {
  zm_generate_options options;
  zm_logit_bias *bias; // a copy
  const zmi_kernels *kernels;
  int32_t vocab;
  seen_token *window; // ring of the latest tokens
  size_t window_size, window_count, window_next;
  uint8_t *marks; // one a token of the vocabulary; all zero between calls
  float *raw;     // the logits before bias and penalties
  float *weight;  // exp((logit - max) / temperature) of each token
  int32_t *heap;
};

// ---- random numbers ----

// Philox4x32-10 (Salmon et al., 2011): a block cipher in miniature, so that number i needs no numbers before it.
void zmi_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]) {
  uint32_t c[4] = {(uint32_t)counter_low, (uint32_t)(counter_low >> 32), (uint32_t)counter_high, (uint32_t)(counter_high >> 32)};
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
    c[1] = (uint32_t)p1;
    c[3] = (uint32_t)p0;
    c[0] = n0;
    c[2] = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  memcpy(out, c, sizeof c);
}

static uint64_t uniform_bits(uint64_t seed, uint64_t position) {
  uint32_t r[4];
  zmi_philox(seed, position, 0, r);
  return ((uint64_t)r[0] << 32 | r[1]) >> 11;
}

// Uniform in [0, 1), a multiple of 2^-53.
double zmi_uniform(uint64_t seed, uint64_t position) {
  return (double)uniform_bits(seed, position) * 0x1p-53;
}

// ---- making and checking ----

static zm_status check_range(const char *name, float value, float low, float high) {
  if (value >= low && value <= high) return ZM_OK; // a NaN fails both
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s is %g: it must lie between %g and %g", name, (double)value, (double)low, (double)high);
}

zm_status zmi_sampler_check(const zm_generate_options *o, int32_t vocab) {
  const struct {
    const char *name;
    float value, low, high;
  } ranges[] = {
    {"temperature", o->temperature, 0, 1000},
    {"top_p", o->top_p, 0, 1},
    {"min_p", o->min_p, 0, 1},
    {"repetition_penalty", o->repetition_penalty, 0, 1000},
    {"presence_penalty", o->presence_penalty, -1000, 1000},
  };
  for (size_t i = 0; i < ZMI_COUNT(ranges); i++) {
    zm_status s = check_range(ranges[i].name, ranges[i].value, ranges[i].low, ranges[i].high);
    if (s) return s;
  }
  if (o->top_k < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "top_k is %d: it must be 0 (off) or the number of tokens to keep", o->top_k);
  if (o->penalty_window < 0 || o->penalty_window > 1 << 24)
    return zmi_fail(ZM_ERROR_ARGUMENT, "penalty_window is %d: it must lie between 0 (the default, 64) and %d", o->penalty_window, 1 << 24);
  if (o->logit_bias_count && !o->logit_bias)
    return zmi_fail(ZM_ERROR_ARGUMENT, "logit_bias is NULL although logit_bias_count is %zu", o->logit_bias_count);
  for (size_t i = 0; i < o->logit_bias_count; i++) {
    zm_logit_bias b = o->logit_bias[i];
    if (b.token < 0 || b.token >= vocab)
      return zmi_fail(ZM_ERROR_ARGUMENT, "logit bias %zu is for token %d: ids run from 0 to %d", i, b.token, vocab - 1);
    if (isnan(b.bias)) return zmi_fail(ZM_ERROR_ARGUMENT, "the logit bias of token %d is not a number", b.token);
  }
  return ZM_OK;
}

zmi_sampler *zmi_sampler_new(const zm_generate_options *o, int32_t vocab, const zmi_kernels *kernels) {
  if (vocab < 1 || vocab > MOST_VOCAB)
    return zmi_fail(ZM_ERROR_ARGUMENT, "a sampler needs a vocabulary of 1 to %d tokens, not %d", MOST_VOCAB, vocab), NULL;
  if (zmi_sampler_check(o, vocab)) return NULL;
  zmi_sampler *s = zmi_calloc(1, sizeof *s);
  if (!s) return NULL;
  s->options = *o;
  s->vocab = vocab;
  s->kernels = kernels;
  s->window_size = o->penalty_window ? (size_t)o->penalty_window : 64;
  s->bias = zmi_calloc(o->logit_bias_count + 1, sizeof *s->bias);
  s->window = zmi_calloc(s->window_size, sizeof *s->window);
  s->marks = zmi_calloc((size_t)vocab, 1);
  s->raw = zmi_calloc((size_t)vocab, sizeof *s->raw);
  s->weight = zmi_calloc((size_t)vocab, sizeof *s->weight);
  s->heap = zmi_calloc((size_t)vocab, sizeof *s->heap);
  if (!s->bias || !s->window || !s->marks || !s->raw || !s->weight || !s->heap) {
    zmi_sampler_free(s);
    return NULL;
  }
  if (o->logit_bias_count) memcpy(s->bias, o->logit_bias, o->logit_bias_count * sizeof *s->bias);
  return s;
}

void zmi_sampler_free(zmi_sampler *s) {
  if (!s) return;
  zmi_free(s->bias);
  zmi_free(s->window);
  zmi_free(s->marks);
  zmi_free(s->raw);
  zmi_free(s->weight);
  zmi_free(s->heap);
  zmi_free(s);
}

void zmi_sampler_see(zmi_sampler *s, int32_t token, bool generated) {
  if (token < 0 || token >= s->vocab) return;
  s->window[s->window_next] = (seen_token){token, generated};
  s->window_next = (s->window_next + 1) % s->window_size;
  if (s->window_count < s->window_size) s->window_count++;
}

// ---- penalties ----

enum { MARK_SEEN = 1, MARK_GENERATED = 2 };

static void apply_bias_and_penalties(zmi_sampler *s, float *x) {
  const zm_generate_options *o = &s->options;
  for (size_t i = 0; i < o->logit_bias_count; i++) {
    float *v = &x[s->bias[i].token];
    // -infinity stays forbidden whatever is added to it.
    if (*v != -INFINITY) *v = s->bias[i].bias == -INFINITY ? -INFINITY : *v + s->bias[i].bias;
  }
  float repetition = o->repetition_penalty > 0 ? o->repetition_penalty : 1.0f;
  if (repetition == 1.0f && o->presence_penalty == 0) return;
  for (size_t i = 0; i < s->window_count; i++) {
    seen_token t = s->window[i];
    uint8_t *mark = &s->marks[t.token];
    float *v = &x[t.token];
    if (!(*mark & MARK_SEEN)) *v = *v > 0 ? *v / repetition : *v * repetition;
    *mark |= MARK_SEEN;
    if (t.generated) *mark |= MARK_GENERATED;
  }
  // Presence comes after repetition for every token, so it takes a second walk.
  for (size_t i = 0; i < s->window_count; i++) {
    int32_t t = s->window[i].token;
    if (s->marks[t] & MARK_GENERATED) x[t] -= o->presence_penalty;
    s->marks[t] = 0;
  }
}

// ---- probabilities ----

int32_t zmi_best_token(const zmi_kernels *kernels, const float *logits, int32_t vocab) {
  const float max = kernels->max(logits, vocab);
  int32_t best = 0;
  while (best < vocab - 1 && logits[best] != max) best++;
  return best;
}

// weight[i] = exp((x[i] - max) / temperature); infinite logits share everything.
static void fill_weights(zmi_sampler *s, const float *x, float max, float temperature) {
  float *w = s->weight;
  if (max == INFINITY) {
    for (int32_t i = 0; i < s->vocab; i++) w[i] = x[i] == INFINITY ? 1.0f : 0.0f;
  } else {
    for (int32_t i = 0; i < s->vocab; i++) w[i] = (x[i] - max) / temperature;
    s->kernels->exp(w, s->vocab);
  }
}

// Eight running sums, index mod 8, added in order.
static double sum_of_weights(const zmi_sampler *s) {
  const float *w = s->weight;
  double sum[8] = {0};
  int32_t i = 0;
  for (; i + 8 <= s->vocab; i += 8)
    for (int j = 0; j < 8; j++) sum[j] += (double)w[i + j];
  for (int j = 0; i < s->vocab; i++, j++) sum[j] += (double)w[i];
  double total = 0;
  for (int j = 0; j < 8; j++) total += sum[j];
  return total;
}

// A weight in units of 2^-40, rounded down: sums of these are exact in any order, so that threads and GPUs may add them up as they like.
static uint64_t whole(float weight) {
  return (uint64_t)(int64_t)(weight * 0x1p40f); // at most 2^40: the signed conversion is one instruction
}

static float log_probability(float x, float max, double sum) {
  double shifted = max == INFINITY ? (x == INFINITY ? 0.0 : -INFINITY) : (double)x - (double)max;
  return (float)(shifted - zmi_log(sum));
}

// ---- cuts ----
// The tokens stand in one order: falling logit, and rising index among equal logits. Each cut keeps a beginning of that order, so a cut is
// the last token that it keeps, and several cuts together are the earliest of those.

typedef struct cut {
  float logit;
  int32_t index;
} cut;

static bool before(const float *x, int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); }

static bool kept(cut c, float logit, int32_t index) { return logit > c.logit || (logit == c.logit && index <= c.index); }

static cut stricter(cut a, cut b) { return kept(b, a.logit, a.index) ? a : b; }

// Unsigned keys in the order of the floats (no NaN here; both zeros are one key).
static uint32_t order_key(float v) {
  union {
    float f;
    uint32_t u;
  } c = {.f = v + 0.0f};
  return c.u >> 31 ? ~c.u : c.u | 0x80000000u;
}

// The k-th token of the order, by radix selection: four walks over the logits, no sorting.
static cut top_k_cut(const float *x, int32_t n, int32_t k) {
  uint32_t prefix = 0, mask = 0;
  int32_t left = k; // rank wanted among the keys that share the prefix
  for (int shift = 24; shift >= 0; shift -= 8) {
    int32_t histogram[256] = {0};
    for (int32_t i = 0; i < n; i++) {
      uint32_t key = order_key(x[i]);
      if ((key & mask) == prefix) histogram[key >> shift & 255]++;
    }
    uint32_t bin = 255;
    while (histogram[bin] < left) left -= histogram[bin--];
    prefix |= bin << shift;
    mask |= (uint32_t)255 << shift;
  }
  for (int32_t i = 0;; i++)
    if (order_key(x[i]) == prefix && --left == 0) return (cut){x[i], i};
}

static void sift_down(int32_t *heap, int32_t count, int32_t at, const float *x) {
  for (;;) {
    int32_t child = 2 * at + 1;
    if (child >= count) return;
    if (child + 1 < count && before(x, heap[child + 1], heap[child])) child++;
    if (!before(x, heap[child], heap[at])) return;
    int32_t t = heap[at];
    heap[at] = heap[child];
    heap[child] = t;
    at = child;
  }
}

// The shortest beginning of the order whose whole weights add up to at least p of all, but no more than `c` keeps.
static cut top_p_cut(zmi_sampler *s, const float *x, double p, cut c) {
  uint64_t total = 0, sum = 0;
  for (int32_t i = 0; i < s->vocab; i++) total += whole(s->weight[i]);
  uint64_t wanted = (uint64_t)(p * (double)total);
  wanted = ZMI_MIN(ZMI_MAX(wanted, 1), total);
  // Tokens lighter than this weigh less than what is left out together, so the beginning that is looked for ends before them.
  const uint64_t light = (total - wanted) / (uint64_t)s->vocab;
  int32_t count = 0;
  for (int32_t i = 0; i < s->vocab; i++)
    if (whole(s->weight[i]) >= light && kept(c, x[i], i)) s->heap[count++] = i;
  for (int32_t i = count / 2 - 1; i >= 0; i--) sift_down(s->heap, count, i, x);
  while (count > 0) {
    int32_t top = s->heap[0];
    sum += whole(s->weight[top]);
    if (sum >= wanted) return (cut){x[top], top};
    s->heap[0] = s->heap[--count];
    sift_down(s->heap, count, 0, x);
  }
  return c;
}

// The last token that is at least min_p as probable as the best one.
static cut min_p_cut(zmi_sampler *s, const float *x, float min_p) {
  cut c = {INFINITY, -1};
  for (int32_t i = 0; i < s->vocab; i++)
    if (s->weight[i] >= min_p && (c.index < 0 || !kept(c, x[i], i))) c = (cut){x[i], i};
  return c;
}

// floor(total * bits / 2^53), bits < 2^53, total < 2^63.
static uint64_t share_of(uint64_t total, uint64_t bits) {
  const uint64_t a = bits << 11, ah = a >> 32, al = (uint32_t)a, th = total >> 32, tl = (uint32_t)total;
  const uint64_t middle = ah * tl + (al * tl >> 32), other = al * th + (uint32_t)middle;
  return ah * th + (middle >> 32) + (other >> 32);
}

static int32_t draw(zmi_sampler *s, const float *x, int32_t best, uint64_t position) {
  const zm_generate_options *o = &s->options;
  float max = x[best];
  bool by_p = o->top_p > 0 && o->top_p < 1, by_min = o->min_p > 0, by_k = o->top_k > 0 && o->top_k < s->vocab;
  cut c = {-INFINITY, INT32_MAX};
  if (by_k) c = stricter(c, top_k_cut(x, s->vocab, o->top_k));
  if (by_p || by_min) {
    fill_weights(s, x, max, 1.0f);
    if (by_min) c = stricter(c, min_p_cut(s, x, o->min_p));
    if (by_p) c = top_p_cut(s, x, (double)o->top_p, c); // last: it sorts, the fewer the better
  }
  fill_weights(s, x, max, o->temperature);
  uint64_t total = 0, sum = 0;
  for (int32_t i = 0; i < s->vocab; i++)
    if (kept(c, x[i], i)) total += whole(s->weight[i]);
  const uint64_t target = share_of(total, uniform_bits(o->seed, position));
  int32_t last = best;
  for (int32_t i = 0; i < s->vocab && sum <= target; i++) {
    if (!kept(c, x[i], i) || whole(s->weight[i]) == 0) continue;
    sum += whole(s->weight[i]);
    last = i;
  }
  return last;
}

static bool changes_logits(const zm_generate_options *o) {
  return o->logit_bias_count || o->presence_penalty != 0 || (o->repetition_penalty > 0 && o->repetition_penalty != 1.0f);
}

bool zmi_sampler_on_a_gpu(const zmi_sampler *s, zmi_gpu_sampling *how) {
  const zm_generate_options *o = &s->options;
  const float repetition = o->repetition_penalty > 0 ? o->repetition_penalty : 1.0f;
  const bool penalties = repetition != 1.0f || o->presence_penalty != 0;
  if (o->logit_bias_count > ZMI_GPU_BIASES || (penalties && s->window_size > ZMI_GPU_SEEN)) return false;
  *how = (zmi_gpu_sampling){.seed = o->seed,
                            .temperature = o->temperature,
                            .top_p = o->top_p < 1 ? o->top_p : 0,
                            .min_p = o->min_p,
                            .top_k = o->top_k < s->vocab ? o->top_k : 0,
                            .repetition = repetition,
                            .presence = o->presence_penalty,
                            .window = (int)ZMI_MIN(s->window_size, (size_t)ZMI_GPU_SEEN),
                            .seen_count = penalties ? (int)s->window_count : 0,
                            .biases = (int)o->logit_bias_count};
  for (int i = 0; i < how->seen_count; i++) {
    const size_t at = (s->window_next + s->window_size - s->window_count + (size_t)i) % s->window_size;
    how->seen[i] = (zmi_gpu_earlier){s->window[at].token, s->window[at].generated};
  }
  for (int i = 0; i < how->biases; i++) how->bias[i] = (zmi_gpu_bias){s->bias[i].token, s->bias[i].bias};
  return true;
}

static zm_status next_token(zmi_sampler *s, float *x, uint64_t position, int32_t *token, float *logprob) {
  for (int32_t i = 0; i < s->vocab; i++) x[i] = isnan(x[i]) ? -INFINITY : x[i];
  int32_t best = zmi_best_token(s->kernels, x, s->vocab);
  float max = x[best];
  if (max == -INFINITY)
    return zmi_fail(ZM_ERROR_FORMAT, "the model gave no finite logit at position %" PRIu64 ": its weights are damaged", position);
  double sum = 0;
  if (logprob) {
    fill_weights(s, x, max, 1.0f);
    sum = sum_of_weights(s);
  }
  const float *raw = x; // what the model said, for the log probability
  if (changes_logits(&s->options)) {
    memcpy(s->raw, x, (size_t)s->vocab * sizeof *x);
    raw = s->raw;
    apply_bias_and_penalties(s, x);
    best = zmi_best_token(s->kernels, x, s->vocab);
    if (x[best] == -INFINITY)
      return zmi_fail(ZM_ERROR_ARGUMENT, "every token is forbidden at position %" PRIu64 ": logit bias leaves nothing to choose from",
                      position);
  }
  *token = s->options.temperature > 0 ? draw(s, x, best, position) : best;
  if (logprob) *logprob = log_probability(raw[*token], max, sum);
  return ZM_OK;
}

zm_status zmi_sampler_next(zmi_sampler *s, float *logits, uint64_t position, int32_t *token, float *logprob) {
  unsigned saved = zmi_float_rule_enter();
  zm_status status = next_token(s, logits, position, token, logprob);
  zmi_float_rule_leave(saved);
  return status;
}
