// A GPU for a long time: tokens of random prompts by the resident kernel, many a launch; then all of them are read as a prompt by the
// graph, whose logits must choose the same, and now and then by the CPU. The step behind them must give the same bits.
//   stress_cuda SECONDS MODEL...
// Prints TAP, a case for each model, and ends with "N tokens in S s, W wrong"; the status is 0 if none is.
#include "lm/lm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1024, PROMPT = 96, ON_THE_CPU = 160, CPU_ROUNDS = 8 };

typedef struct player {
  zm_model *model;
  zm_session *session;
} player;

typedef struct subject {
  const char *path;
  int32_t vocab, context;
  size_t tokens, wrong;
  player resident, launches, cpu;
} subject;

static uint64_t state = 88172645463325252ull;
static uint64_t next(void) {
  state ^= state << 13;
  state ^= state >> 7;
  return state ^= state << 17;
}

static int failed(const char *path) {
  fprintf(stderr, "stress_cuda: %s: %s\n", path, zm_last_error());
  return 2;
}

static bool open_player(player *p, const char *path, zm_model_device device, zm_executor executor) {
  p->model = zm_model_open(path, &(zm_model_options){.device = device, .executor = executor});
  if (!p->model || zm_patch(p->model, NULL, NULL)) return false;
  zm_model_info info;
  zm_model_get_info(p->model, &info);
  p->session = zm_session_open(p->model, &(zm_session_options){.context = ZMI_MIN(info.context, MOST + PROMPT + 1), .chunk = 128});
  return p->session != NULL;
}

static void close_player(player *p) {
  zm_session_close(p->session);
  zm_model_close(p->model);
}

static bool open_subject(subject *s, const char *path) {
  s->path = path;
  if (!open_player(&s->resident, path, ZM_MODEL_CUDA, ZM_EXECUTOR_PERSISTENT)) return false;
  if (!open_player(&s->launches, path, ZM_MODEL_CUDA, ZM_EXECUTOR_GRAPH)) return false;
  if (!open_player(&s->cpu, path, ZM_MODEL_CPU, ZM_EXECUTOR_AUTO)) return false;
  s->vocab = zmi_model_vocab(s->cpu.model);
  s->context = zm_session_context(s->cpu.session);
  return true;
}

// What a player makes of the tokens as a prompt and of the last one behind it: whether it chooses tokens [prompt, count) and gives `logits`
// in the end. -1 where it fails.
static int agrees(const subject *s, const player *p, const int32_t *tokens, size_t prompt, size_t count, const float *logits) {
  const size_t made = count - prompt, vocab = (size_t)s->vocab;
  float *x = zmi_malloc((made + 1) * vocab * sizeof *x);
  if (!x || zm_session_reset(p->session, 0)) return -1;
  bool same = true, done = zm_session_feed(p->session, 0, tokens, count - 1, x, made, NULL, NULL) == ZM_OK;
  done = done && zm_session_step(p->session, &(zm_row){0, tokens[count - 1]}, 1, x + made * vocab, 1) == ZM_OK;
  for (size_t i = 0; i < made && done && same; i++)
    same = zmi_best_token(zmi_model_kernels(s->cpu.model), x + i * vocab, s->vocab) == tokens[prompt + i];
  same = same && done && memcmp(x + made * vocab, logits, vocab * sizeof *x) == 0;
  zmi_free(x);
  return done ? same : -1;
}

// One prompt. Adds the tokens to those of the subject, and the players that do not agree to its wrong ones.
static zm_status one_round(subject *s, size_t round) {
  int32_t tokens[PROMPT + MOST];
  const bool cpu = round % CPU_ROUNDS == 0;
  const size_t prompt = 1 + next() % PROMPT, room = (size_t)s->context - prompt - 1;
  const size_t most = 1 + next() % ZMI_MIN(room, (size_t)(cpu ? ON_THE_CPU : MOST));
  for (size_t i = 0; i < prompt; i++) tokens[i] = (int32_t)(next() % (uint64_t)s->vocab);
  const zm_generate_options o = {.max_tokens = most, .ignore_eos = next() % 2 == 0, .skip_logprobs = true};
  zm_generate_result r;
  zm_status status = zm_session_reset(s->resident.session, 0);
  if (status == ZM_OK) status = zm_generate(s->resident.session, tokens, prompt, &o, &r);
  if (status != ZM_OK) return status;
  const size_t made = r.count;
  s->tokens += made;
  memcpy(tokens + prompt, r.tokens, r.count * sizeof *tokens);
  zm_generate_result_free(&r);
  float *logits = zmi_malloc((size_t)s->vocab * sizeof *logits);
  if (!logits) return ZM_ERROR_MEMORY;
  status = zm_session_step(s->resident.session, &(zm_row){0, tokens[prompt + made - 1]}, 1, logits, 1);
  const player *others[] = {&s->launches, cpu ? &s->cpu : NULL};
  for (int i = 0; i < 2 && status == ZM_OK; i++) {
    const int same = others[i] ? agrees(s, others[i], tokens, prompt, prompt + made, logits) : 1;
    if (same < 0) status = zm_last_status();
    if (same == 0)
      fprintf(stderr, "stress_cuda: %s: round %zu, prompt %zu, %zu tokens: %s says otherwise\n", s->path, round, prompt, made,
              i ? "the CPU" : "the graph");
    s->wrong += same == 0;
  }
  zmi_free(logits);
  return status;
}

// The cases in TAP and the sum of them. Whether all agree.
static bool reported(const subject *all, size_t count, double took) {
  size_t tokens = 0, wrong = 0;
  for (size_t i = 0; i < count; i++) {
    const bool fine = all[i].tokens > 0 && all[i].wrong == 0;
    printf("%s %zu - %s\n", fine ? "ok" : "not ok", i + 1, all[i].path);
    tokens += all[i].tokens;
    wrong += !fine;
  }
  printf("1..%zu\n%zu tokens in %.0f s, %zu wrong\n", count, tokens, took, wrong);
  return wrong == 0;
}

int main(int argc, char **argv) {
  const double seconds = argc > 2 ? atof(argv[1]) : 0, start = zmi_now();
  const size_t count = argc > 2 ? (size_t)argc - 2 : 0;
  subject *all = zmi_calloc(count + 1, sizeof *all);
  double said = start;
  int status = count && all ? 0 : 2;
  if (!count) fprintf(stderr, "usage: stress_cuda SECONDS MODEL...\n");
  for (size_t i = 0; i < count && !status; i++) status = open_subject(&all[i], argv[i + 2]) ? 0 : failed(argv[i + 2]);
  for (size_t round = 0; !status && (round < count || zmi_now() - start < seconds); round++) {
    subject *s = &all[round % count];
    if (one_round(s, round / count)) status = failed(s->path);
    if (zmi_now() - said < 10) continue;
    said = zmi_now();
    fprintf(stderr, "round %zu, %.0f s: %s: %zu tokens, %zu wrong\n", round + 1, said - start, s->path, s->tokens, s->wrong);
  }
  if (!status) status = reported(all, count, zmi_now() - start) ? 0 : 1;
  for (size_t i = 0; i < count; i++) {
    close_player(&all[i].resident);
    close_player(&all[i].launches);
    close_player(&all[i].cpu);
  }
  zmi_free(all);
  return status;
}
