// Steps on an imitated GPU one after another: several tokens without the host in between; stops, deadlines and launches that are refused in
// the middle of a session, which goes on afterwards as if nothing had been; which executor plays; and its clocks.
#include "fake_gpu.h"
#include "tools/tools.h"

enum { TOKENS = 38 }; // more than one launch gives

static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
enum { PROMPT = 8 };

// ---- several tokens ----

typedef struct told {
  int32_t tokens[TOKENS];
  char text[4096];
  int count, stop_at; // stop_at: the callback says so behind so many tokens; 0: never
  int32_t length;     // of the session, at the last one
  zm_session *session;
} told;

static bool tell(void *user, const zm_token_event *e) {
  told *t = user;
  const size_t size = strlen(t->text);
  if (t->count < TOKENS) t->tokens[t->count] = e->token;
  t->count++;
  snprintf(t->text + size, sizeof t->text - size, "%.*s", (int)e->text_size, e->text);
  t->length = zm_session_length(t->session, 0);
  return t->count != t->stop_at;
}

typedef struct outcome {
  told told;
  zm_stop_reason stop;
  int32_t length;
  float *logits; // of one more token
} outcome;

// Closes both; the imitated GPU has nothing of them then.
static void close_both(zm_session *s, zm_model *m) {
  zm_session_close(s);
  zm_model_close(m);
  nothing_is_left();
}

static zm_session *open_run(const way *w, int32_t context, zm_model **m) {
  *m = open_model(w);
  if (!*m) fail_msg("%s: %s", w->path, zm_last_error());
  must(w->patched ? zm_patch(*m, NULL, NULL) : zm_unpatch(*m));
  zm_session *s = zm_session_open(*m, &(zm_session_options){.context = context, .sequences = 1 + w->others});
  if (!s) fail_msg("%s: %s", w->path, zm_last_error());
  return s;
}

static outcome generate(const way *w, int32_t context, int stop_at, zm_generate_options o) {
  zm_model *m;
  outcome out = {.told = {.stop_at = stop_at}};
  zm_session *s = open_run(w, context, &m);
  zm_generate_result r;
  out.told.session = s;
  o.on_token = tell;
  o.user = &out.told;
  o.skip_logprobs = w->device == ZM_MODEL_CUDA;
  must(zm_generate(s, prompt, PROMPT, &o, &r));
  out.stop = r.stop;
  out.length = zm_session_length(s, 0);
  assert_int_equal(r.count, out.told.count);
  for (int i = 0; i < out.told.count; i++) assert_int_equal(r.tokens[i], out.told.tokens[i]);
  out.logits = calloc(vocab_of(w->path), sizeof *out.logits);
  if (out.length < context) must(zm_session_step(s, &(zm_row){0, r.tokens[r.count - 1]}, 1, out.logits, 1));
  zm_generate_result_free(&r);
  zm_session_close(s);
  zm_model_close(m);
  return out;
}

// The same tokens, text and end as on the CPU; and the session goes on with the same bits.
static int same_on_both(const way *w, int32_t context, int stop_at, const zm_generate_options *o, zm_stop_reason stop) {
  way cpu = *w;
  cpu.device = ZM_MODEL_CPU;
  cpu.executor = ZM_EXECUTOR_AUTO;
  outcome a = generate(&cpu, context, stop_at, *o);
  const unsigned long before = driver()->launches;
  outcome b = generate(w, context, stop_at, *o);
  const unsigned long launches = driver()->launches - before;
  assert_int_equal(a.stop, stop);
  assert_int_equal(b.stop, stop);
  assert_int_equal(a.told.count, b.told.count);
  assert_memory_equal(a.told.tokens, b.told.tokens, sizeof a.told.tokens);
  assert_string_equal(a.told.text, b.told.text);
  assert_int_equal(a.length, b.length);
  assert_int_equal(a.told.length, b.told.length);
  assert_memory_equal(a.logits, b.logits, vocab_of(w->path) * sizeof *a.logits);
  free(a.logits);
  free(b.logits);
  nothing_is_left();
  // A prompt, the tokens, those once more that were stopped in the middle, and one step behind all.
  if (launches > 12) fail_msg("%lu launches for %d tokens", launches, a.told.count);
  return a.told.count;
}

static const way resident = {
    .path = "checkpoints/tiny-lfm2_moe", .dtype = ZM_BF16, .device = ZM_MODEL_CUDA, .executor = ZM_EXECUTOR_PERSISTENT, .patched = true};

static void tokens_are_chosen_on_the_gpu(void **state) {
  (void)state;
  static const char *const paths[] = {"tiny-lfm2_moe", "tiny-qwen3_moe", "tiny-llama-f32"};
  for (size_t i = 0; i < (WATCHED ? 1 : ZMI_COUNT(paths)); i++) {
    char path[64];
    snprintf(path, sizeof path, "checkpoints/%s", paths[i]);
    way w = resident;
    w.path = path;
    w.others = i == 1;
    w.dtype = i == 2 ? ZM_F32 : ZM_BF16;
    const zm_generate_options all = {.max_tokens = TOKENS, .ignore_eos = true};
    assert_int_equal(same_on_both(&w, 64, 0, &all, ZM_STOP_LENGTH), TOKENS);
  }
}

static void tokens_are_drawn_on_the_gpu(void **state) {
  (void)state;
  static const zm_generate_options rows[] = {{.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.02f, .seed = 3},
                                             {.temperature = 1, .seed = 1ull << 40},
                                             {.repetition_penalty = 1.2f, .presence_penalty = 0.5f, .penalty_window = 20}};
  for (size_t i = 0; i < (WATCHED ? 1 : ZMI_COUNT(rows)); i++) {
    zm_generate_options o = rows[i];
    o.max_tokens = TOKENS;
    o.ignore_eos = true;
    assert_int_equal(same_on_both(&resident, 64, 0, &o, ZM_STOP_LENGTH), TOKENS);
  }
  // Stopped in the middle, so that tokens are drawn again.
  const zm_generate_options all = {.max_tokens = TOKENS, .ignore_eos = true, .temperature = 1.5f, .seed = 9};
  assert_int_equal(same_on_both(&resident, 64, 7, &all, ZM_STOP_CALLBACK), 7);
}

static void tokens_end_where_they_are_to_end(void **state) {
  (void)state;
  way w = resident;
  const zm_generate_options all = {.max_tokens = TOKENS, .ignore_eos = true};
  w.device = ZM_MODEL_CPU;
  w.executor = ZM_EXECUTOR_AUTO;
  outcome o = generate(&w, 64, 0, all);
  w = resident;
  // The first place of the token that stands at 9: behind it the text ends.
  int at = 0;
  while (o.told.tokens[at] != o.told.tokens[9]) at++;
  int32_t many[12];
  for (int i = 0; i < 12; i++) many[i] = o.told.tokens[at]; // which the device knows, or the host alone
  for (int32_t other = 0, i = 0; i < 11; other++) {
    bool used = false;
    for (int k = 0; k < TOKENS; k++) used = used || o.told.tokens[k] == other;
    if (!used) many[i++] = other;
  }
  zm_generate_options stops = all;
  stops.stop_tokens = &o.told.tokens[at];
  stops.stop_token_count = 1;
  assert_int_equal(same_on_both(&w, 64, 0, &stops, ZM_STOP_TOKEN), at + 1);
  stops.stop_tokens = many;
  stops.stop_token_count = 12;
  assert_int_equal(same_on_both(&w, 64, 0, &stops, ZM_STOP_TOKEN), at + 1);
  assert_int_equal(same_on_both(&w, 64, 7, &all, ZM_STOP_CALLBACK), 7);
  assert_int_equal(same_on_both(&w, PROMPT + 5, 0, &all, ZM_STOP_CONTEXT), 6);
  free(o.logits);
}

// Stop strings are known to the host alone.
static void text_ends_where_it_is_to_end(void **state) {
  (void)state;
  if (WATCHED) skip();
  way w = resident;
  w.path = "checkpoints/storyteller-4bit";
  static const char *const stop[] = {"e"};
  const zm_generate_options o = {.max_tokens = 12, .stop = stop, .stop_count = 1};
  same_on_both(&w, 64, 0, &o, ZM_STOP_STRING);
}

// ---- ends that nobody asked for ----

// A step behind a prompt on the CPU: [vocab].
static float *step_on_the_cpu(void) {
  way w = resident;
  zm_model *m;
  w.device = ZM_MODEL_CPU;
  w.executor = ZM_EXECUTOR_AUTO;
  zm_session *s = open_run(&w, 32, &m);
  float *logits = calloc(vocab_of(w.path), sizeof *logits);
  must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
  must(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1));
  zm_session_close(s);
  zm_model_close(m);
  return logits;
}

// After a prompt, something fails; then a step gives what it would have given at once.
static void go_on(zm_session *s, const float *expected) {
  float *logits = calloc(vocab_of(resident.path), sizeof *logits);
  assert_int_equal(zm_session_length(s, 0), PROMPT);
  must(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1));
  assert_memory_equal(logits, expected, vocab_of(resident.path) * sizeof *logits);
  free(logits);
}

static void steps_that_are_stopped(void **state) {
  (void)state;
  float *expected = step_on_the_cpu(), *logits = calloc(vocab_of(resident.path), sizeof *logits);
  static const struct {
    const char *options, *words;
    zm_status status;
  } rows[] = {{"hang=1", "the resident kernel gave up after 20 seconds: try --executor graph", ZM_ERROR_DEVICE},
              {"hang=1,stop=4", "playing was stopped", ZM_ERROR_CANCELLED}};
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    zm_model *m;
    zm_session *s = open_run(&resident, 32, &m);
    must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
    imitate(rows[i].options);
    driver_reads_options();
    expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), rows[i].status, rows[i].words);
    imitate(NULL);
    driver_reads_options();
    go_on(s, expected);
    close_both(s, m);
  }
  free(expected);
  free(logits);
}

// As a signal does it: nothing more is played until it is allowed again.
static void everything_is_stopped(void **state) {
  (void)state;
  static const zm_executor executors[] = {ZM_EXECUTOR_STREAM, ZM_EXECUTOR_GRAPH, ZM_EXECUTOR_PERSISTENT};
  float *expected = step_on_the_cpu(), *logits = calloc(vocab_of(resident.path), sizeof *logits);
  for (size_t i = 0; i < ZMI_COUNT(executors); i++) {
    zm_model *m;
    way w = resident;
    w.executor = executors[i];
    zm_session *s = open_run(&w, 32, &m);
    must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
    zmi_device_stop(true);
    expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), ZM_ERROR_CANCELLED, "playing was stopped");
    expect_failure(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL), ZM_ERROR_CANCELLED, "playing was stopped");
    zmi_device_stop(false);
    go_on(s, expected);
    close_both(s, m);
  }
  free(expected);
  free(logits);
}

// Between two tokens of a launch: those that were made have been told, and the session is as before the launch.
static void tokens_that_are_stopped(void **state) {
  (void)state;
  char middle[40];
  zm_model *m;
  float *expected = step_on_the_cpu();
  zm_session *s = open_run(&resident, 64, &m);
  told t = {.session = s};
  zm_generate_result r;
  const zm_generate_options o = {.max_tokens = 20, .ignore_eos = true, .skip_logprobs = true, .on_token = tell, .user = &t};
  must(zm_session_feed(s, 0, prompt, PROMPT - 1, NULL, 0, NULL, NULL));
  // How often the device looks depends on how long its blocks wait: counted first, in the order that the second run has, too.
  imitate("order=1");
  unsigned long looks = driver()->looks;
  must(zm_generate(s, prompt + PROMPT - 1, 1, &o, &r));
  looks = driver()->looks - looks;
  assert_int_equal(r.count, 20);
  zm_generate_result_free(&r);
  t.count = 0;
  must(zm_session_reset(s, 0));
  must(zm_session_feed(s, 0, prompt, PROMPT - 1, NULL, 0, NULL, NULL));
  snprintf(middle, sizeof middle, "order=1,stop=%lu", looks / 2);
  imitate(middle);
  driver_reads_options();
  expect_failure(zm_generate(s, prompt + PROMPT - 1, 1, &o, &r), ZM_ERROR_CANCELLED, "playing was stopped");
  imitate(NULL);
  driver_reads_options();
  if (r.count < 2 || r.count >= 20) fail_msg("%zu tokens", r.count);
  assert_int_equal(r.count, t.count);
  zm_generate_result_free(&r);
  go_on(s, expected);
  close_both(s, m);
  free(expected);
}

// A run that is asked to end while blocks wait for each other leaves a step half done, and says so.
static void runs_that_are_asked_to_end(void **state) {
  (void)state;
  zm_model *m;
  zm_session *s = open_run(&resident, 32, &m);
  int32_t token;
  int played = 0;
  zmi_program *p = zmi_model_compile(m, 1, 1, zmi_session_states(s), NULL);
  if (!p) fail_msg("%s", zm_last_error());
  zmi_device_player *player = zmi_program_gpu(p);
  const zmi_device_run run = {.token = "tokens", .position = "position", .logits = "logits", .most = 5};
  zmi_program_set_row(p, 0, 3, 0, 0);
  assert_true(zmi_device_player_runs(player));
  must(zmi_device_player_start(player, &run));
  zmi_device_player_stop(player); // before the imitated GPU has begun
  must(zmi_device_player_finish(player, &played));
  assert_int_equal(played, 1);
  assert_false(zmi_device_player_next(player, &token));
  must(zmi_device_player_start(player, &run));
  while (zmi_device_player_next(player, &token)) played++;
  assert_int_equal(played, 6);
  must(zmi_device_player_finish(player, &played));
  assert_int_equal(played, 5);
  zmi_program_free(p);
  close_both(s, m);
}

// A launch that is refused in the middle of a step, whose first launches have changed the convolutions' states.
static void steps_whose_launches_are_refused(void **state) {
  (void)state;
  float *expected = step_on_the_cpu(), *logits = calloc(vocab_of(resident.path), sizeof *logits);
  way w = resident;
  w.executor = ZM_EXECUTOR_STREAM;
  zm_model *m;
  zm_session *s = open_run(&w, 32, &m);
  must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
  const unsigned long first = driver()->launches;
  go_on(s, expected);
  const int launches = (int)(driver()->launches - first);
  zm_session_close(s);
  zm_model_close(m);
  for (int n = 1; n <= launches; n += WATCHED ? launches / 2 : 1 + launches / 9) {
    char options[32];
    s = open_run(&w, 32, &m);
    must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
    snprintf(options, sizeof options, "refuse=%d", n);
    imitate(options);
    driver_reads_options();
    expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), ZM_ERROR_DEVICE, "CUDA_ERROR_OPERATING_SYSTEM (304)");
    imitate(NULL);
    go_on(s, expected);
    close_both(s, m);
  }
  free(expected);
  free(logits);
}

// A GPU that falls off the bus: nothing goes on with it.
static void a_gpu_that_disappears(void **state) {
  (void)state;
  float *logits = calloc(vocab_of(resident.path), sizeof *logits);
  zm_model *m;
  zm_session *s = open_run(&resident, 32, &m);
  must(zm_session_feed(s, 0, prompt, PROMPT, logits, 1, NULL, NULL));
  imitate("lost=999,fault=1");
  driver_reads_options();
  expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), ZM_ERROR_DEVICE,
                 "CUDA_ERROR_UNKNOWN (999): unknown error; the GPU does not answer any more: see the system's log (NVRM: Xid)");
  imitate(NULL);
  driver_reads_options();
  expect_failure(zm_session_step(s, &(zm_row){0, 5}, 1, logits, 1), ZM_ERROR_DEVICE, "open the model again");
  close_both(s, m);
  free(logits);
}

// Programs of other steps make room for a new one: memory that is enough for each of them, and not for all.
static void programs_make_room(void **state) {
  (void)state;
  float *logits = calloc(vocab_of(resident.path) * 8, sizeof *logits);
  zm_model *m;
  zm_row rows[8];
  size_t enough = 0;
  for (int i = 0; i < 8; i++) rows[i] = (zm_row){0, i + 1};
  for (int turn = 0; turn < 2; turn++) { // first to see how much one of them needs
    zm_session *s = open_run(&resident, 128, &m);
    must(zm_session_step(s, rows, 7, logits, 7));
    enough = turn ? enough : driver()->bytes;
    if (turn) {
      char options[64];
      snprintf(options, sizeof options, "memory=%zu", enough + 4096);
      imitate(options);
      driver_reads_options();
      for (size_t n = 1; n <= 7; n++) must(zm_session_step(s, rows, n, logits, n));
      assert_true(driver()->bytes <= enough + 4096);
    }
    close_both(s, m);
  }
  imitate(NULL);
  free(logits);
}

// ---- which executor ----

static void the_resident_kernel_plays_where_it_pays(void **state) {
  (void)state;
  static const struct {
    const char *path;
    zm_executor asked;
    int32_t rows;
    zmi_executor plays;
  } cases[] = {
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_AUTO, 1, ZMI_EXECUTOR_PERSISTENT},
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_AUTO, 2, ZMI_EXECUTOR_PERSISTENT},
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_AUTO, 3, ZMI_EXECUTOR_GRAPH},      // of more rows launches share weights
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_AUTO, 40, ZMI_EXECUTOR_GRAPH},     // products of many rows
      {"checkpoints/llama-bf16", ZM_EXECUTOR_AUTO, 1, ZMI_EXECUTOR_GRAPH},            // weights do not come through the ring
      {"checkpoints/llama-bf16", ZM_EXECUTOR_PERSISTENT, 1, ZMI_EXECUTOR_PERSISTENT}, // asked for
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_PERSISTENT, 3, ZMI_EXECUTOR_PERSISTENT},
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_PERSISTENT, 40, ZMI_EXECUTOR_GRAPH}, // the resident kernel has no such products
      {"checkpoints/storyteller-4bit", ZM_EXECUTOR_STREAM, 1, ZMI_EXECUTOR_STREAM},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    const way w = {.path = cases[i].path, .dtype = ZM_BF16, .device = ZM_MODEL_CUDA, .executor = cases[i].asked, .patched = true};
    zm_model *m;
    zm_session *s = open_run(&w, 64, &m);
    zmi_program *p = zmi_model_compile(m, cases[i].rows, 1, zmi_session_states(s), NULL);
    if (!p) fail_msg("%s", zm_last_error());
    const zmi_executor plays = zmi_device_player_executor(zmi_program_gpu(p));
    if (plays != cases[i].plays)
      fail_msg("%s, %d rows, asked for %s: %s", w.path, cases[i].rows, zmi_executor_name((zmi_executor)w.executor),
               zmi_executor_name(plays));
    zmi_program_free(p);
    close_both(s, m);
  }
}

static void executors_are_for_gpus(void **state) {
  (void)state;
  assert_int_equal(zmi_executor_find("graph"), ZMI_EXECUTOR_GRAPH);
  assert_int_equal(zmi_executor_find("none"), ZMI_EXECUTOR_COUNT);
  assert_string_equal(ZMI_EXECUTOR_NAMES, "auto|stream|graph|persistent");
  zm_model_options o = {.executor = ZM_EXECUTOR_PERSISTENT};
  assert_null(zm_model_open(resident.path, &o));
  assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
  assert_string_equal(zm_last_error(), "executor persistent plays on a GPU only: ask for the device cuda too, or for no executor");
  o.executor = (zm_executor)ZMI_EXECUTOR_COUNT;
  assert_null(zm_model_open(resident.path, &o));
  assert_string_equal(zm_last_error(), "executor: 4 is none of auto|stream|graph|persistent");
}

// ---- clocks ----

// The imitated clock counts a millisecond for a launch: what all instructions work and wait is that, whatever ticks the kernel has seen.
static void clocks_of_the_resident_kernel(void **state) {
  (void)state;
  imitate("memory=1000000000");
  zm_model *m;
  zm_session *s = open_run(&resident, 32, &m);
  zmi_bench b;
  must(zmi_bench_run(m, &(zmi_bench_options){.prompt_tokens = 4, .decode_tokens = 3, .rounds = 1, .profile = true}, &b));
  double worked = 0, waited = 0;
  bool ready = false, dot = false;
  for (size_t i = 0; i < b.kind_count; i++) {
    const zmi_bench_kind *k = &b.kinds[i];
    ready = ready || strcmp(k->kind, "ready") == 0;
    dot = dot || strcmp(k->kind, "dot") == 0;
    if (k->worked <= 0 || k->waited < 0 || k->idle < 0 || k->idle > k->waited * (1 + 1e-9) || k->count == 0)
      fail_msg("%s of %s: works %g, waits %g, of that idle %g", k->kind, k->op, k->worked, k->waited, k->idle);
    worked += k->worked;
    waited += k->waited;
  }
  assert_true(ready && dot);
  assert_true(waited > 0);
  const double all = zmi_bench_profile_seconds(&b);
  if (all < 0.999e-3 || all > 1.001e-3 || worked + waited < 0.999e-3 || worked + waited > 1.001e-3)
    fail_msg("a token takes %g s, of which kinds of instructions work %g s and wait %g s", all, worked, waited);
  zmi_bench_release(&b);
  zm_session_close(s);
  zm_model_close(m);
  imitate(NULL);
  nothing_is_left();
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(tokens_are_chosen_on_the_gpu),
      cmocka_unit_test(tokens_are_drawn_on_the_gpu),
      cmocka_unit_test(tokens_end_where_they_are_to_end),
      cmocka_unit_test(text_ends_where_it_is_to_end),
      cmocka_unit_test(steps_that_are_stopped),
      cmocka_unit_test(everything_is_stopped),
      cmocka_unit_test(tokens_that_are_stopped),
      cmocka_unit_test(runs_that_are_asked_to_end),
      cmocka_unit_test(steps_whose_launches_are_refused),
      cmocka_unit_test(a_gpu_that_disappears),
      cmocka_unit_test(programs_make_room),
      cmocka_unit_test(the_resident_kernel_plays_where_it_pays),
      cmocka_unit_test(executors_are_for_gpus),
      cmocka_unit_test(clocks_of_the_resident_kernel),
  };
  return cmocka_run_group_tests(tests, enter, leave);
}
