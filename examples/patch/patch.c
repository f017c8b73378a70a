// Patching a model with a kernel of your own: wherever the model computes silu(gate) * up, your kernel does, with the same bits.
//   patch CHECKPOINT
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmlx/zmlx.h>

enum { TOKENS = 12 };

// What is looked for, as the model builds it.
static zm_status gated(void *user, zm_array *const *in, int nin, zm_array **out, int nout) {
  (void)user, (void)nin, (void)nout;
  out[0] = zm_multiply(zm_silu(in[0]), in[1]);
  return out[0] ? ZM_OK : zm_last_status();
}

// Logits of the last of some tokens.
static float *logits_of(zm_model *model, int32_t vocab) {
  int32_t tokens[TOKENS];
  for (int i = 0; i < TOKENS; i++) tokens[i] = 20 + 7 * i;
  float *logits = malloc((size_t)vocab * sizeof *logits);
  zm_session *session = zm_session_open(model, NULL);
  if (session && logits && zm_session_feed(session, 0, tokens, TOKENS, logits, 1, NULL, NULL) == ZM_OK) {
    zm_session_close(session);
    return logits;
  }
  zm_session_close(session);
  free(logits);
  return NULL;
}

static bool compare(zm_model *model, const zm_op *op) {
  zm_model_info info;
  zm_patch_report *report = NULL;
  zm_model_get_info(model, &info);
  const zm_own_pattern pattern = {.name = "my gate", .replaces = gated, .operands = 2, .op = op};
  float *stock = logits_of(model, info.vocab);
  bool ok = stock && zm_patch_with(model, &pattern, 1, &report) == ZM_OK;
  float *patched = ok ? logits_of(model, info.vocab) : NULL;
  ok = ok && patched;
  if (ok) {
    bool same = memcmp(stock, patched, (size_t)info.vocab * sizeof *stock) == 0;
    printf("%zu places computed by your kernel; %d logits: %s\n", zm_patch_report_size(report), (int)info.vocab,
           same ? "the same bits" : "other bits");
    ok = same && zm_patch_report_size(report) > 0;
  }
  zm_patch_report_free(report);
  free(stock);
  free(patched);
  return ok;
}

int main(int argc, char **argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s CHECKPOINT\n", argv[0]);
    return 2;
  }
  zm_model *model = zm_model_open(argv[1], NULL);
  // The model rounds silu's result before it multiplies; T(...) does the same inside one kernel.
  zm_op *op = zm_elementwise("T(silu(gate)) * up", &(zm_elementwise_options){.name = "my_gate"});
  bool ok = model && op && compare(model, op);
  if (!ok) fprintf(stderr, "%s: %s\n", argv[0], zm_last_error());
  zm_model_close(model);
  zm_op_free(op);
  return ok ? 0 : 1;
}
