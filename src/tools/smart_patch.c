// zm_smart_patch: keeps a pattern only if decoding with it is faster beyond the noise and gives the same bits. Patterns are tried one after
// another on top of those already kept, each timed in ABBA blocks against the choice without it. A remembered choice (smart_memory.h) is
// used without timing, after a check of its bits.
#include "tools/smart_memory.h"

#include <string.h>

enum { PROMPT = 32, DEFAULT_ROUNDS = 12, DEFAULT_TOKENS = 16 };
enum { FEWEST_ROUNDS = 6 }; // with fewer there is no 95% interval of the median

typedef struct trial {
  zm_model *model;
  zm_session *session; // sequence 0: without the pattern, 1: with it
  const zm_smart_patch_options *o;
  zmi_patterns sides[2];
  int32_t rounds, tokens, vocab;
  float *logits[2];
  uint64_t done, total;
} trial;

static int32_t token_at(const trial *t, int32_t position) {
  return (int32_t)(zmi_uniform(7, (uint64_t)position) * t->vocab);
}

static zm_status step(trial *t, int side, int32_t position) {
  zm_row row = {side, token_at(t, position)};
  return zm_session_step(t->session, &row, 1, t->logits[side], 1);
}

static zm_status block(trial *t, int side, double *seconds) {
  int32_t position = zm_session_length(t->session, side);
  zm_status status = ZM_OK;
  zmi_model_set_patterns(t->model, t->sides[side]);
  double start = zmi_now();
  for (int32_t i = 0; i < t->tokens && status == ZM_OK; i++) status = step(t, side, position + i);
  *seconds = zmi_now() - start;
  return status;
}

// Both sequences back at the same short prompt, compiled and warm.
static zm_status restart(trial *t) {
  zm_status status = ZM_OK;
  for (int side = 0; side < 2 && status == ZM_OK; side++) {
    zmi_model_set_patterns(t->model, t->sides[side]);
    status = zm_session_reset(t->session, side);
    for (int32_t i = 0; i < PROMPT && status == ZM_OK; i++) status = step(t, side, i);
  }
  return status;
}

static zm_status time_rounds(trial *t, zmi_abba *times, bool *same) {
  static const int order[4] = {0, 1, 1, 0};
  zm_status status = restart(t);
  *same = status == ZM_OK && memcmp(t->logits[0], t->logits[1], (size_t)t->vocab * sizeof(float)) == 0;
  for (size_t r = 0; r < times->rounds && status == ZM_OK && *same; r++) {
    int seen[2] = {0, 0};
    for (int i = 0; i < 4 && status == ZM_OK; i++) {
      int side = order[i];
      double *to = side == 0 ? times->a : times->b;
      status = block(t, side, &to[2 * r + (size_t)seen[side]++]);
    }
    // Both sides have decoded the same tokens from the same beginning.
    if (memcmp(t->logits[0], t->logits[1], (size_t)t->vocab * sizeof(float)) != 0) *same = false;
    t->done++;
    if (status == ZM_OK && t->o->progress && !t->o->progress(t->o->progress_user, "timing patterns", t->done, t->total)) {
      status = zmi_fail(ZM_ERROR_CANCELLED, "smart patching was cancelled");
    }
  }
  return status == ZM_OK && *same ? zmi_abba_finish(times) : status;
}

static zm_status matches_anything(zm_model *m, size_t pattern, bool *any) {
  const char *name = zm_pattern_name(pattern);
  zm_patch_report *r = NULL;
  *any = false;
  zm_status status = zm_patch(m, &(zm_patch_options){.patterns = &name, .count = 1}, &r);
  for (size_t i = 0; i < zm_patch_report_size(r); i++) *any = *any || zm_patch_report_entry(r, i)->matched;
  zm_patch_report_free(r);
  return status;
}

static zm_status try_pattern(trial *t, zmi_smart_choice *choice, size_t pattern) {
  zmi_smart_entry *entry = &choice->entries[choice->count];
  *entry = (zmi_smart_entry){.pattern = pattern, .outcome = ZMI_SMART_NO_PLACE};
  t->sides[0] = zmi_smart_kept(choice);
  t->sides[1] = t->sides[0] | (zmi_patterns)1 << pattern;
  choice->count++;
  bool any, same = false;
  zm_status status = matches_anything(t->model, pattern, &any);
  if (status != ZM_OK) return status;
  if (!any) {
    t->done += (uint64_t)t->rounds;
    return ZM_OK;
  }
  zmi_abba times;
  status = zmi_abba_new(&times, (size_t)t->rounds);
  if (status == ZM_OK) status = time_rounds(t, &times, &same);
  if (status == ZM_OK && same) entry->speedup = times.speedup;
  entry->outcome = !same ? ZMI_SMART_DIFFERS : entry->speedup.low > 1 ? ZMI_SMART_KEPT : ZMI_SMART_NO_GAIN;
  zmi_abba_release(&times);
  return status;
}

// A remembered choice may come from anywhere: what it would turn on must decode to the same bits as the stock graph.
static zm_status same_bits(trial *t, zmi_patterns kept, bool *same) {
  const size_t size = (size_t)t->vocab * sizeof(float);
  double seconds;
  *same = true;
  if (!kept) return ZM_OK;
  t->sides[0] = 0;
  t->sides[1] = kept;
  zm_status status = restart(t);
  *same = status == ZM_OK && memcmp(t->logits[0], t->logits[1], size) == 0;
  for (int side = 0; side < 2 && status == ZM_OK && *same; side++) status = block(t, side, &seconds);
  if (status == ZM_OK && *same) *same = memcmp(t->logits[0], t->logits[1], size) == 0;
  return status;
}

static zm_status make_report(const zmi_smart_choice *choice, const char *remembered, zm_patch_report **report) {
  static const char *const reasons[ZMI_SMART_OUTCOMES] = {
    "kept: faster beyond the noise, same bits",
    "left out: it matches no place of this model",
    "left out: no gain beyond the noise",
    "left out: its logits differ from those without it",
  };
  zm_patch_report *r = zmi_patch_report_new();
  zm_status status = r ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t i = 0; i < choice->count && status == ZM_OK; i++) {
    const zmi_smart_entry *e = &choice->entries[i];
    zmi_text reason = {0};
    zmi_text_add(&reason, "%s%s%s", reasons[e->outcome], remembered ? "; remembered in " : "", remembered ? remembered : "");
    zm_patch_entry entry = {zm_pattern_name(e->pattern), "decode",          e->outcome == ZMI_SMART_KEPT, zmi_text_str(&reason),
                            e->speedup.median,           e->speedup.low, e->speedup.high};
    status = reason.failed ? ZM_ERROR_MEMORY : zmi_patch_report_add(r, &entry);
    zmi_text_release(&reason);
  }
  if (status == ZM_OK)
    *report = r;
  else
    zm_patch_report_free(r);
  return status;
}

static zm_status open_trial(trial *t) {
  int32_t limit = zmi_model_context(t->model);
  if (t->rounds < FEWEST_ROUNDS)
    return zmi_fail(ZM_ERROR_ARGUMENT, "%d rounds cannot tell a gain from noise: at least %d are needed", t->rounds, FEWEST_ROUNDS);
  int64_t context = PROMPT + (int64_t)t->rounds * t->tokens * 2;
  if (context > limit) {
    return zmi_fail(ZM_ERROR_LIMIT, "%d rounds of %d tokens do not fit the model's context of %d: ask for fewer", t->rounds, t->tokens,
                    limit);
  }
  t->session = zm_session_open(t->model, &(zm_session_options){.context = (int32_t)context, .sequences = 2});
  if (!t->session) return zm_last_status();
  for (int side = 0; side < 2; side++) {
    t->logits[side] = zmi_calloc((size_t)t->vocab, sizeof(float));
    if (!t->logits[side]) return ZM_ERROR_MEMORY;
  }
  return ZM_OK;
}

static zm_status measure(trial *t, zmi_patterns candidates, zmi_smart_choice *choice) {
  zm_status status = ZM_OK;
  choice->count = 0;
  for (size_t i = 0; i < zm_pattern_count() && status == ZM_OK; i++)
    if (candidates >> i & 1) status = try_pattern(t, choice, i);
  return status;
}

zm_status zm_smart_patch(zm_model *m, const zm_smart_patch_options *options, zm_patch_report **report) {
  const zm_smart_patch_options none = {0};
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_smart_patch: no model was given");
  trial t = {.model = m, .o = options ? options : &none, .vocab = zmi_model_vocab(m)};
  t.rounds = t.o->rounds > 0 ? t.o->rounds : DEFAULT_ROUNDS;
  t.tokens = t.o->tokens > 0 ? t.o->tokens : DEFAULT_TOKENS;
  t.total = (uint64_t)t.rounds * zm_pattern_count();
  zmi_patterns before = zmi_model_patterns(m), candidates = 0;
  zm_status status = zmi_patterns_choose(&(zm_patch_options){.patterns = t.o->candidates, .count = t.o->count}, &candidates);
  if (status != ZM_OK) return status;
  zmi_smart_choice choice = {.count = 0};
  zmi_smart_memory memory;
  zmi_smart_memory_open(&memory, m, candidates, t.rounds, t.tokens);
  bool remembered = !t.o->measure_again && zmi_smart_recall(&memory, candidates, &choice);
  status = open_trial(&t);
  if (status == ZM_OK && remembered) status = same_bits(&t, zmi_smart_kept(&choice), &remembered);
  if (status == ZM_OK && !remembered) status = measure(&t, candidates, &choice);
  zm_session_close(t.session);
  zmi_free(t.logits[0]);
  zmi_free(t.logits[1]);
  if (status == ZM_OK && !remembered) zmi_smart_store(&memory, &choice);
  if (status == ZM_OK && report) status = make_report(&choice, remembered ? memory.path : NULL, report);
  zmi_smart_memory_close(&memory);
  zmi_model_set_patterns(m, status == ZM_OK ? zmi_smart_kept(&choice) : before);
  return status;
}
