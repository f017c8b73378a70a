// The lm room: sessions (caches and the programs that fill them), sampling, and generation. The public part is in <zmlx/model.h>.
#ifndef ZMI_LM_H
#define ZMI_LM_H

#include "models/models.h"

// ---- sessions (session.c) ----
enum { ZMI_STEP_ROWS = 1024 }; // most rows in one step
zm_model *zmi_session_model(const zm_session *s);
const zmi_state_set *zmi_session_states(const zm_session *s); // with their memory; for programs that tools compile themselves
// Puts a sequence back to `length` positions, at most what it holds. Fails if the model has states that only move forward (a convolution's
// last inputs) unless length is 0 or what it holds already.
zm_status zmi_session_rewind(zm_session *s, int32_t sequence, int32_t length);
// Takes the caches to hold `length` positions again after going back: what stood there must have been written by the same tokens. For
// measuring only: states that keep the latest inputs stay as they are.
zm_status zmi_session_resume(zm_session *s, int32_t sequence, int32_t length);

// Decoding of one sequence where steps are played (a GPU with the resident kernel): reads `token`, then each token that it chooses,
// until `most` were chosen, one of `end` was, or `on_next` has returned false for one. on_next is told each as it is made, while the
// sequence is as long as if the tokens before it had been read one by one. Afterwards the session is as if that had been so. *made: tokens
// that were chosen; 0: steps are not played there, nothing was done. `logits` [vocab]: those behind the last one. If none of them is
// finite, there is no last token: on_next was not told of it.
typedef struct zmi_run {
  int32_t sequence, token;
  size_t most;
  const int32_t *end;
  size_t ends;
  zmi_gpu_sampling sampling;
  bool (*on_next)(void *user, int32_t token);
  void *user;
} zmi_run;
zm_status zmi_session_run(zm_session *s, const zmi_run *run, float *logits, size_t *made);

// ---- sampling (sampling.c) ----
// One row of float32 logits becomes one token. The steps, in this order:
//   1. NaN logits count as -infinity. If nothing is left above -infinity, that is an error.
//   2. Log probabilities for the caller: log softmax of these logits, before anything below.
//   3. Logit bias is added (-infinity forbids a token for good).
//   4. Repetition penalty r: for each token among the latest `penalty_window` tokens of prompt and answer, once: a positive logit is
//      divided by r, any other is multiplied by r.
//   5. Presence penalty: subtracted once for each token among those that were generated (not prompt).
//   6. temperature 0: the largest logit; the lowest id among equals. Nothing further applies.
//   7. Cuts, each on the distribution softmax(logits) at temperature 1 over the whole vocabulary, in the order of falling logit, lower id
//   first:
//        top_k  keeps the first k tokens;
//        top_p  keeps the shortest beginning whose probabilities add up to at least p;
//        min_p  keeps tokens whose probability is at least min_p times that of the best one.
//      A token stays if every cut keeps it, so the order of the cuts does not matter. The best token always stays.
//   8. Temperature: the kept tokens weigh exp((logit - max) / temperature).
//   9. One number u in [0, 1) from Philox4x32-10, key = seed, counter = position of the new token in its sequence: walking the kept tokens
//   by rising
//      id, the first one at which the running weight exceeds u times the whole weight.
// These are the definitions of mlx-lm and llama.cpp (cuts before temperature); they differ in the order of the cuts, which is no matter
// here. Weights are float32 (the library's exp). What is added up are whole numbers of 2^-40, weights rounded down: their sums are the same
// in any order, so a GPU draws the same token (device/sample.h). top_p wants floor(p * total) of them, p and total as float64, at least 1;
// u is a multiple of 2^-53, and its share of the total is rounded down. A log probability has a sum of its own: float64, eight running sums
// by id modulo 8.
typedef struct zmi_sampler zmi_sampler;

// The first of the largest logits, the choice of temperature 0. With a NaN among them: some id in range.
int32_t zmi_best_token(const zmi_kernels *kernels, const float *logits, int32_t vocab);
zm_status zmi_sampler_check(const zm_generate_options *options, int32_t vocab); // ranges of all sampling options
zmi_sampler *zmi_sampler_new(const zm_generate_options *options, int32_t vocab, const zmi_kernels *kernels);
void zmi_sampler_free(zmi_sampler *s);
// Remembers a token for the penalties. generated: it is part of the answer, not of the prompt.
void zmi_sampler_see(zmi_sampler *s, int32_t token, bool generated);
// The same choice where steps are played, behind what was seen so far. False if the device cannot: too many biases, too long a window.
bool zmi_sampler_on_a_gpu(const zmi_sampler *s, zmi_gpu_sampling *how);
// Chooses the token at `position`. logits [vocab] are changed. logprob may be NULL.
zm_status zmi_sampler_next(zmi_sampler *s, float *logits, uint64_t position, int32_t *token, float *logprob);

void zmi_philox(uint64_t key, uint64_t counter_low, uint64_t counter_high, uint32_t out[4]);
double zmi_uniform(uint64_t seed, uint64_t position); // in [0, 1)

// ---- stop strings (stop.c) ----
// Text goes in piece by piece; what can no longer be part of a stop string comes out. The first stop string to be complete ends the text
// just before it (of several that end at the same byte, the longest), however the text was cut into pieces.
typedef struct zmi_stopper {
  const char *const *stop; // borrowed
  size_t count, longest;
  zmi_text held; // may be the beginning of a stop string
} zmi_stopper;
zm_status zmi_stopper_init(zmi_stopper *s, const char *const *stop, size_t count); // refuses empty strings and invalid UTF-8
void zmi_stopper_release(zmi_stopper *s);
// Appends to `out` what may be shown; *stopped: a stop string is complete and the text ends with `out`.
zm_status zmi_stopper_add(zmi_stopper *s, const char *text, size_t size, zmi_text *out, bool *stopped);
zm_status zmi_stopper_finish(zmi_stopper *s, zmi_text *out); // hands out what was held back

#endif
