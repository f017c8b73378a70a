// Sessions: the caches of one or more sequences, and the programs that advance them. A program is compiled for a number of rows and of
// rows with logits, kept while it is in use, and made again when the model's choice of patterns changes.
#include "lm/lm.h"

#include <stdio.h>
#include <string.h>

enum { PROGRAMS = 8 }; // kept at most: decode, whole chunks, the ends of prompts

typedef struct kept_program {
  zmi_program *program;
  int32_t rows, selected;
  zmi_patterns patterns;
  uint64_t own_version;
  uint64_t used; // time of last use
} kept_program;

struct zm_session {
  zm_model *model;
  zmi_state_set states;
  const zmi_home *home; // where they live
  uint8_t *memory;        // of all states, rolling ones first
  size_t memory_bytes;
  bool *rolling; // for each state: it holds the latest inputs only, not one entry for each position
  size_t rolling_bytes;
  uint8_t *saved; // as much: rolling states as they were
  int32_t context, sequences, chunk, vocab;
  int32_t *length; // positions filled, for each sequence
  int32_t *count;  // rows of each sequence in the step at hand
  zm_row *rows;    // [ZMI_STEP_ROWS], for zm_session_feed
  kept_program kept[PROGRAMS];
  uint64_t clock;
};

// ---- opening ----

static size_t state_bytes(const zmi_state_slot *slot) {
  size_t bytes = 0;
  zmi_type_bytes(&slot->type, &bytes);
  return bytes;
}

static size_t round_up(size_t n) {
  return (n + 63) / 64 * 64;
}

static zm_status check_options(const zm_session_options *o, int32_t limit) {
  if (o->context < 0 || o->context > limit)
    return zmi_fail(ZM_ERROR_ARGUMENT, "context is %d: it must lie between 1 and the %d positions that the checkpoint was made for",
                    o->context, limit);
  if (o->sequences < 0 || o->sequences > ZMI_STEP_ROWS)
    return zmi_fail(ZM_ERROR_ARGUMENT, "sequences is %d: it must lie between 1 and %d", o->sequences, ZMI_STEP_ROWS);
  if (o->chunk < 0 || o->chunk > ZMI_STEP_ROWS)
    return zmi_fail(ZM_ERROR_ARGUMENT, "chunk is %d: it must lie between 1 and %d", o->chunk, ZMI_STEP_ROWS);
  return ZM_OK;
}

// A state is rolling if its size does not depend on the context.
static zm_status find_rolling(zm_session *s) {
  zmi_state_set larger = {0};
  zm_status status = zmi_model_states(s->model, s->sequences, s->context + ZMI_KEY_BLOCK, &larger);
  if (status) return status;
  for (size_t i = 0; i < s->states.count && i < larger.count; i++) {
    s->rolling[i] = zmi_type_equal(&s->states.slots[i].type, &larger.slots[i].type);
    if (s->rolling[i]) s->rolling_bytes += round_up(state_bytes(&s->states.slots[i]));
  }
  zmi_state_set_release(&larger);
  return ZM_OK;
}

static zm_status give_memory(zm_session *s) {
  size_t bytes;
  if (!zmi_state_set_bytes(&s->states, &bytes))
    return zmi_fail(ZM_ERROR_MEMORY, "caches of %d sequences of %d positions are larger than the address space", s->sequences, s->context);
  uint64_t available = s->home->available();
  if (available && bytes > available)
    return zmi_fail(ZM_ERROR_MEMORY,
                    "caches of %d %s of %d positions need %.2f GB, %.2f GB more than can be had: ask for a smaller context", s->sequences,
                    s->sequences == 1 ? "sequence" : "sequences", s->context, (double)bytes / 1e9, (double)(bytes - available) / 1e9);
  s->memory_bytes = ZMI_MAX(bytes, (size_t)64);
  void *memory = NULL, *saved = NULL;
  zm_status status = s->home->get(zmi_model_gpu(s->model), s->memory_bytes, "caches", &memory);
  s->memory = memory;
  if (status == ZM_OK && s->rolling_bytes) status = s->home->get(zmi_model_gpu(s->model), s->rolling_bytes, "caches", &saved);
  s->saved = saved;
  if (status != ZM_OK) return status;
  uint8_t *first = s->memory, *rest = s->memory + s->rolling_bytes;
  for (size_t i = 0; i < s->states.count; i++) {
    uint8_t **at = s->rolling[i] ? &first : &rest;
    s->states.slots[i].data = *at;
    *at += round_up(state_bytes(&s->states.slots[i]));
  }
  return ZM_OK;
}

static zm_status open_session(zm_session *s) {
  zm_status status = zmi_model_states(s->model, s->sequences, s->context, &s->states);
  if (status) return status;
  s->rolling = zmi_calloc(s->states.count + 1, sizeof *s->rolling);
  s->length = zmi_calloc((size_t)s->sequences, sizeof *s->length);
  s->count = zmi_calloc((size_t)s->sequences, sizeof *s->count);
  s->rows = zmi_calloc((size_t)s->chunk, sizeof *s->rows);
  if (!s->rolling || !s->length || !s->count || !s->rows) return ZM_ERROR_MEMORY;
  status = find_rolling(s);
  return status ? status : give_memory(s);
}

zm_session *zm_session_open(zm_model *m, const zm_session_options *options) {
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "a session needs a model: none was given"), NULL;
  zm_session_options none = {0};
  const zm_session_options *o = options ? options : &none;
  int32_t limit = zmi_model_context(m);
  if (check_options(o, limit)) return NULL;
  zm_session *s = zmi_calloc(1, sizeof *s);
  if (!s) return NULL;
  s->model = m;
  s->home = zmi_home_of(zmi_model_gpu(m));
  s->context = o->context ? o->context : ZMI_MIN(4096, limit);
  s->sequences = o->sequences ? o->sequences : 1;
  s->chunk = o->chunk ? o->chunk : 128;
  s->vocab = zmi_model_vocab(m);
  zmi_model_lock(m);
  zm_status status = open_session(s);
  zmi_model_unlock(m);
  if (!status) return s;
  zm_session_close(s);
  return NULL;
}

void zm_session_close(zm_session *s) {
  if (!s) return;
  zmi_model_lock(s->model); // programs hold references into the model's graph
  for (int i = 0; i < PROGRAMS; i++) zmi_program_free(s->kept[i].program);
  s->home->give_back(zmi_model_gpu(s->model), s->memory, s->memory_bytes);
  s->home->give_back(zmi_model_gpu(s->model), s->saved, s->rolling_bytes);
  zmi_model_unlock(s->model);
  zmi_state_set_release(&s->states);
  zmi_free(s->rolling);
  zmi_free(s->length);
  zmi_free(s->count);
  zmi_free(s->rows);
  zmi_free(s);
}

// ---- facts ----

zm_model *zmi_session_model(const zm_session *s) {
  return s->model;
}
const zmi_state_set *zmi_session_states(const zm_session *s) {
  return &s->states;
}
int32_t zm_session_context(const zm_session *s) {
  return s ? s->context : 0;
}
int32_t zm_session_length(const zm_session *s, int32_t sequence) {
  return s && sequence >= 0 && sequence < s->sequences ? s->length[sequence] : 0;
}

static zm_status check_sequence(const zm_session *s, int32_t sequence) {
  if (sequence >= 0 && sequence < s->sequences) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "sequence %d does not exist: this session has %d, counted from 0", sequence, s->sequences);
}

static zm_status no_session(void) {
  return zmi_fail(ZM_ERROR_ARGUMENT, "no session was given");
}

zm_status zm_session_reset(zm_session *s, int32_t sequence) {
  return s ? zmi_session_rewind(s, sequence, 0) : no_session();
}

zm_status zmi_session_rewind(zm_session *s, int32_t sequence, int32_t length) {
  zm_status status = check_sequence(s, sequence);
  if (status) return status;
  int32_t held = s->length[sequence];
  if (length < 0 || length > held)
    return zmi_fail(ZM_ERROR_ARGUMENT, "sequence %d holds %d positions: it cannot go back to %d", sequence, held, length);
  if (length && length != held && s->rolling_bytes)
    return zmi_fail(ZM_ERROR_UNSUPPORTED,
                    "sequence %d cannot go back from %d to %d positions: this model's convolutions keep only their "
                    "latest inputs",
                    sequence, held, length);
  s->length[sequence] = length; // operations take the position into account, so nothing is to be cleared
  return ZM_OK;
}

zm_status zmi_session_resume(zm_session *s, int32_t sequence, int32_t length) {
  zm_status status = check_sequence(s, sequence);
  if (status) return status;
  if (length < s->length[sequence] || length > s->context)
    return zmi_fail(ZM_ERROR_ARGUMENT, "sequence %d holds %d positions of %d: it cannot be taken to hold %d", sequence, s->length[sequence],
                    s->context, length);
  s->length[sequence] = length;
  return ZM_OK;
}

// ---- programs ----

// Programs can be made again: their memory is had where a new one finds too little. False if there were none.
static bool drop_programs(zm_session *s) {
  bool any = false;
  for (int i = 0; i < PROGRAMS; i++) {
    any = any || s->kept[i].program;
    zmi_program_free(s->kept[i].program);
    s->kept[i] = (kept_program){0};
  }
  return any;
}

// The program for a step, from those kept or compiled anew in the place of the one unused for longest. NULL on failure.
static zmi_program *find_program(zm_session *s, int32_t rows, int32_t selected) {
  const zmi_patterns patterns = zmi_model_patterns(s->model);
  const uint64_t own = zmi_model_own_version(s->model);
  kept_program *oldest = &s->kept[0];
  for (int i = 0; i < PROGRAMS; i++) {
    kept_program *k = &s->kept[i];
    if (k->program && k->rows == rows && k->selected == selected && k->patterns == patterns && k->own_version == own) {
      k->used = ++s->clock;
      return k->program;
    }
    if (k->used < oldest->used) oldest = k;
  }
  zmi_program *made = zmi_model_compile(s->model, rows, selected, &s->states, NULL);
  if (!made && zm_last_status() == ZM_ERROR_MEMORY && drop_programs(s))
    made = zmi_model_compile(s->model, rows, selected, &s->states, NULL);
  if (!made) return NULL;
  zmi_program_free(oldest->program);
  *oldest = (kept_program){made, rows, selected, patterns, own, ++s->clock};
  return made;
}

// ---- going back ----
// What a step writes of caches is written again by the next one; rolling states are not, so that they are kept.

// Copies the rolling states of a sequence, or of all of them (-1), to s->saved, or back.
static zm_status keep_rolling(zm_session *s, int32_t sequence, bool back) {
  zmi_cuda *gpu = zmi_model_gpu(s->model);
  if (!s->rolling_bytes) return ZM_OK;
  if (sequence < 0 || s->sequences == 1)
    return s->home->copy(gpu, back ? s->memory : s->saved, back ? s->saved : s->memory, s->rolling_bytes);
  zm_status status = ZM_OK;
  for (size_t i = 0; i < s->states.count && status == ZM_OK; i++) {
    if (!s->rolling[i]) continue;
    const size_t bytes = state_bytes(&s->states.slots[i]) / (size_t)s->sequences;
    uint8_t *state = (uint8_t *)s->states.slots[i].data + bytes * (size_t)sequence, *saved = s->saved + (state - s->memory);
    status = s->home->copy(gpu, back ? state : saved, back ? saved : state, bytes);
  }
  return status;
}

// Rolling states as they were before what failed with `status`. A GPU that failed may not do that either: what is said is why.
static zm_status roll_back(zm_session *s, int32_t sequence, zm_status status) {
  char why[1024];
  snprintf(why, sizeof why, "%s", zm_last_error());
  return keep_rolling(s, sequence, true) == ZM_OK ? status : zmi_fail(status, "%s", why);
}

// ---- steps ----

static zm_status check_rows(zm_session *s, const zm_row *rows, size_t count) {
  memset(s->count, 0, (size_t)s->sequences * sizeof *s->count);
  for (size_t i = 0; i < count; i++) {
    zm_row r = rows[i];
    if (check_sequence(s, r.sequence)) return zmi_fail_within("row %zu", i);
    if (r.token < 0 || r.token >= s->vocab)
      return zmi_fail(ZM_ERROR_ARGUMENT, "row %zu: token id %d is out of range: ids run from 0 to %d", i, r.token, s->vocab - 1);
    if (i && rows[i - 1].sequence != r.sequence && s->count[r.sequence])
      return zmi_fail(ZM_ERROR_ARGUMENT,
                      "row %zu belongs to sequence %d like an earlier row, but rows of another sequence lie between them", i, r.sequence);
    if (s->length[r.sequence] + ++s->count[r.sequence] > s->context)
      return zmi_fail(ZM_ERROR_LIMIT, "the context of sequence %d is full: %d of %d positions are left, and row %zu needs one more",
                      r.sequence, s->context - s->length[r.sequence], s->context, i);
  }
  return ZM_OK;
}

static void fill_inputs(const zm_session *s, zmi_program *p, const zm_row *rows, size_t count, size_t selected) {
  int32_t *tokens = zmi_program_slot(p, "tokens"), *position = zmi_program_slot(p, "position");
  int32_t *sequence = zmi_program_slot(p, "sequence");
  int32_t *select = selected ? zmi_program_slot(p, "select") : NULL;
  for (size_t i = 0; i < count; i++) {
    bool continues = i && rows[i - 1].sequence == rows[i].sequence;
    tokens[i] = rows[i].token;
    sequence[i] = rows[i].sequence;
    position[i] = continues ? position[i - 1] + 1 : s->length[rows[i].sequence];
  }
  for (size_t i = 0; i < selected; i++) select[i] = (int32_t)(count - selected + i);
}

// One step of rows that were checked; logits of the last `selected`. The caller has the model's lock.
static zm_status play(zm_session *s, const zm_row *rows, size_t count, float *logits, size_t selected) {
  zmi_program *p = find_program(s, (int32_t)count, (int32_t)selected);
  zm_status status = p ? ZM_OK : zm_last_status();
  if (p) {
    fill_inputs(s, p, rows, count, selected);
    status = zmi_program_play(p, zmi_model_pool(s->model));
  }
  if (status == ZM_OK) {
    const zmi_kernels *kernels = zmi_model_kernels(s->model);
    if (selected) kernels->load(zmi_program_slot(p, "logits"), zmi_model_dtype(s->model), (int64_t)selected * s->vocab, logits);
    for (size_t i = 0; i < count; i++) s->length[rows[i].sequence]++;
  }
  return status;
}

zm_status zm_session_step(zm_session *s, const zm_row *rows, size_t count, float *logits, size_t last) {
  if (!s) return no_session();
  if (!rows || !count) return zmi_fail(ZM_ERROR_ARGUMENT, "a step needs at least one row: none was given");
  if (count > ZMI_STEP_ROWS)
    return zmi_fail(ZM_ERROR_LIMIT, "%zu rows are too many for one step: at most %d (zm_session_feed cuts a prompt into chunks)", count,
                    ZMI_STEP_ROWS);
  if (last > count) return zmi_fail(ZM_ERROR_ARGUMENT, "logits of the last %zu rows were asked of a step of %zu", last, count);
  zm_status status = check_rows(s, rows, count);
  if (status) return status;
  zmi_model_lock(s->model);
  if (s->home->may_fail) status = keep_rolling(s, -1, false);
  if (!status) {
    status = play(s, rows, count, logits, logits ? last : 0);
    if (status && s->home->may_fail) status = roll_back(s, -1, status);
  }
  zmi_model_unlock(s->model);
  return status;
}

// ---- steps without the host in between ----

static zm_status start_run(zm_session *s, zmi_program *p, const zmi_run *run, size_t most) {
  const zm_row row = {run->sequence, run->token};
  fill_inputs(s, p, &row, 1, 1);
  return zmi_device_player_start(zmi_program_gpu(p), &(zmi_device_run){.token = "tokens",
                                                                       .position = "position",
                                                                       .logits = "logits",
                                                                       .most = (int)ZMI_MIN(most, (size_t)ZMI_GPU_SAID),
                                                                       .end = run->end,
                                                                       .ends = run->ends,
                                                                       .sampling = run->sampling});
}

// Tokens as they come. The model's lock is not held: what is told may ask for anything but this session.
static void take_tokens(zm_session *s, zmi_device_player *player, const zmi_run *run, size_t *made) {
  int32_t token;
  while (zmi_device_player_next(player, &token)) {
    ++*made;
    s->length[run->sequence]++;
    const bool on = token >= 0 && run->on_next(run->user, token);
    bool end = !on;
    for (size_t i = 0; i < run->ends; i++) end = end || token == run->end[i];
    if (!end) continue;
    zmi_device_player_stop(player);
    return;
  }
}

// Steps that nobody asked for went on after the last token: from the beginning, as many as were asked for.
static zm_status play_again(zm_session *s, zmi_program *p, const zmi_run *run, size_t made) {
  zm_status status = keep_rolling(s, run->sequence, true);
  s->length[run->sequence] -= (int32_t)made;
  int played;
  if (status == ZM_OK) status = start_run(s, p, run, made);
  if (status == ZM_OK) status = zmi_device_player_finish(zmi_program_gpu(p), &played);
  s->length[run->sequence] += (int32_t)made;
  return status;
}

zm_status zmi_session_run(zm_session *s, const zmi_run *run, float *logits, size_t *made) {
  const int32_t before = s->length[run->sequence];
  const zm_row row = {run->sequence, run->token};
  int played = 0;
  *made = 0;
  zm_status status = check_rows(s, &row, 1);
  if (status != ZM_OK) return status;
  zmi_model_lock(s->model);
  zmi_program *p = zmi_model_gpu(s->model) ? find_program(s, 1, 1) : NULL;
  if (!p || !zmi_device_player_runs(zmi_program_gpu(p))) {
    zmi_model_unlock(s->model);
    return zmi_model_gpu(s->model) && !p ? zm_last_status() : ZM_OK;
  }
  status = keep_rolling(s, run->sequence, false);
  if (status == ZM_OK) status = start_run(s, p, run, ZMI_MIN(run->most, (size_t)(s->context - before)));
  zmi_model_unlock(s->model);
  if (status == ZM_OK) take_tokens(s, zmi_program_gpu(p), run, made);
  zmi_model_lock(s->model);
  if (status == ZM_OK) status = zmi_device_player_finish(zmi_program_gpu(p), &played);
  if (status == ZM_OK && (size_t)played > *made) status = play_again(s, p, run, *made);
  if (status == ZM_OK)
    zmi_model_kernels(s->model)->load(zmi_program_slot(p, "logits"), zmi_model_dtype(s->model), s->vocab, logits);
  else {
    s->length[run->sequence] = before;
    status = roll_back(s, run->sequence, status);
  }
  zmi_model_unlock(s->model);
  return status;
}

// ---- prompts ----

static zm_status check_feed(const zm_session *s, int32_t sequence, const int32_t *tokens, size_t count, size_t last) {
  if (check_sequence(s, sequence)) return zm_last_status();
  if (!tokens || !count) return zmi_fail(ZM_ERROR_ARGUMENT, "the prompt is empty: at least one token is needed");
  if (last > count) return zmi_fail(ZM_ERROR_ARGUMENT, "logits of the last %zu tokens were asked of a prompt of %zu", last, count);
  int32_t left = s->context - s->length[sequence];
  if (count > (size_t)left)
    return zmi_fail(ZM_ERROR_LIMIT, "%zu tokens do not fit: %d of the %d positions of the context are left; %s", count, left, s->context,
                    s->context < zmi_model_context(s->model) ? "ask for a larger context" : "the model allows no more");
  for (size_t i = 0; i < count; i++)
    if (tokens[i] < 0 || tokens[i] >= s->vocab)
      return zmi_fail(ZM_ERROR_ARGUMENT, "token %zu of the prompt is %d, which is out of range: ids run from 0 to %d", i, tokens[i],
                      s->vocab - 1);
  return ZM_OK;
}

zm_status zm_session_feed(zm_session *s, int32_t sequence, const int32_t *tokens, size_t count, float *logits, size_t last,
                          zm_progress_fn progress, void *user) {
  if (!s) return no_session();
  zm_status status = check_feed(s, sequence, tokens, count, last);
  if (status) return status;
  if (!logits) last = 0;
  const int32_t before = s->length[sequence];
  zmi_model_lock(s->model);
  status = keep_rolling(s, sequence, false);
  zmi_model_unlock(s->model);
  if (status) return status;
  for (size_t done = 0; done < count && !status;) {
    size_t n = ZMI_MIN((size_t)s->chunk, count - done), end = done + n;
    size_t first = ZMI_MAX(done, count - last); // first token of this chunk whose logits are wanted
    size_t selected = end > first ? end - first : 0;
    for (size_t i = 0; i < n; i++) s->rows[i] = (zm_row){sequence, tokens[done + i]};
    zmi_model_lock(s->model);
    status = play(s, s->rows, n, selected ? logits + (first - (count - last)) * (size_t)s->vocab : NULL, selected);
    zmi_model_unlock(s->model);
    if (!status && progress && !progress(user, "reading the prompt", end, count))
      status = zmi_fail(ZM_ERROR_CANCELLED, "reading the prompt was cancelled after %zu of %zu tokens", end, count);
    done = end;
  }
  if (!status) return ZM_OK;
  zmi_model_lock(s->model);
  s->length[sequence] = before; // as if it had not begun
  status = roll_back(s, sequence, status);
  zmi_model_unlock(s->model);
  return status;
}

// ---- the tokenizer of a model ----

static void release_tokenizer(void *tokenizer) {
  zm_tokenizer_close(tokenizer);
}

const zm_tokenizer *zm_model_tokenizer(zm_model *m) {
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "a tokenizer was asked of no model"), NULL;
  zmi_model_lock(m);
  void **slot = zmi_model_text(m, release_tokenizer);
  if (!*slot) *slot = zm_tokenizer_open(zmi_model_path(m));
  zm_tokenizer *t = *slot;
  zmi_model_unlock(m);
  return t;
}
