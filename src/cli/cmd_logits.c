// zmlx logits: logits of the last positions and the negative log likelihood of each token of a text, as safetensors.
#include "cli/cli.h"

#include <math.h> // INFINITY
#include <string.h>

static const cli_option options[] = {
  {"tokens-file", 0, CLI_PATH, "FILE", 0, 0, NULL, "token ids separated by blanks, - for stdin"},
  {"out", 'o', CLI_PATH, "FILE", 0, 0, NULL, "safetensors file to write"},
  {"last", 0, CLI_INT, "K", 1, 1 << 30, "1", "positions whose logits are written"},
  {"chunk", 0, CLI_INT, "N", 1, ZMI_STEP_ROWS, "128", "tokens in one step"},
  CLI_END,
};

typedef struct job {
  const cli_args *args;
  zm_model *model;
  int32_t *ids;
  size_t count, last;
  int32_t vocab;
  size_t chunk;
  float *logits; // [chunk, vocab]
  float *nll;    // [count - 1]
  zmi_tensors_writer *writer;
} job;

// Natural log of the sum of exp over a row: terms in float32 by the library's exp, summed in float64 in the order of ids.
static double log_sum_exp(const float *x, int32_t n) {
  float max = -INFINITY;
  for (int32_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
  double sum = 0;
  for (int32_t i = 0; i < n; i++) sum += (double)zmi_expf(x[i] - max);
  return (double)max + zmi_log(sum);
}

static zm_status take_chunk(job *j, zm_session *s, size_t done, size_t n) {
  zm_status status = zm_session_feed(s, 0, j->ids + done, n, j->logits, n, NULL, NULL);
  for (size_t i = 0; i < n && !status; i++) {
    const float *row = j->logits + i * (size_t)j->vocab;
    size_t at = done + i;
    if (at + 1 < j->count) j->nll[at] = (float)(log_sum_exp(row, j->vocab) - (double)row[j->ids[at + 1]]);
    if (at + j->last >= j->count) status = zmi_tensors_writer_write(j->writer, row, (size_t)j->vocab * sizeof *row);
  }
  if (!status && !cli_progress(NULL, "computing logits", done + n, j->count))
    status = zmi_fail(ZM_ERROR_CANCELLED, "the computation was interrupted after %zu of %zu tokens", done + n, j->count);
  return status;
}

static zm_status compute(job *j) {
  zm_session *s = zm_session_open(j->model, &(zm_session_options){.context = (int32_t)j->count, .chunk = (int32_t)j->chunk});
  if (!s) return zm_last_status();
  j->logits = zmi_malloc(j->chunk * (size_t)j->vocab * sizeof *j->logits);
  j->nll = zmi_calloc(j->count, sizeof *j->nll);
  zm_status status = j->logits && j->nll ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t done = 0; done < j->count && !status; done += j->chunk)
    status = take_chunk(j, s, done, ZMI_MIN(j->chunk, j->count - done));
  if (!status && j->count > 1) status = zmi_tensors_writer_write(j->writer, j->nll, (j->count - 1) * sizeof *j->nll);
  zm_session_close(s);
  return status;
}

static zm_status write_logits(job *j) {
  zm_model_info info;
  zm_model_get_info(j->model, &info);
  j->vocab = info.vocab;
  j->last = (size_t)cli_int(j->args, "last");
  const char *file = cli_text(j->args, "tokens-file"), *out = cli_text(j->args, "out");
  if (j->last > j->count) return zmi_fail(ZM_ERROR_ARGUMENT, "--last %zu is more than the %zu tokens of %s", j->last, j->count, file);
  if (j->count > (size_t)info.context)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: its %zu tokens are more than the %d positions that the checkpoint was made for", file, j->count,
                    info.context);
  j->chunk = (size_t)cli_int(j->args, "chunk");
  if (!cli_given(j->args, "chunk")) { // memory for the logits of a chunk stays below 32 MiB
    size_t rows = ((size_t)8 << 20) / (size_t)j->vocab;
    j->chunk = ZMI_MIN(j->chunk, ZMI_MAX(rows, (size_t)1));
  }
  const zmi_tensor tensors[] = {
      {.name = "logits",
       .dtype = ZM_F32,
       .rank = 2,
       .shape = {(int64_t)j->last, j->vocab},
       .bytes = j->last * (size_t)j->vocab * sizeof(float)},
      {.name = "nll", .dtype = ZM_F32, .rank = 1, .shape = {(int64_t)j->count - 1}, .bytes = (j->count - 1) * sizeof(float)},
  };
  j->writer = zmi_tensors_writer_open(out, ZMI_COUNT(tensors), tensors);
  if (!j->writer) return zm_last_status();
  zm_status status = compute(j);
  if (!status) return zmi_tensors_writer_publish(j->writer);
  zmi_tensors_writer_abandon(j->writer);
  return status;
}

static int run_logits(const cli_args *args) {
  if (!cli_given(args, "tokens-file") || !cli_given(args, "out")) return cli_usage("logits needs --tokens-file FILE and --out FILE");
  cli_interrupt_grace(2, NULL); // time to remove the unfinished file
  job j = {.args = args};
  int status = CLI_OK;
  if (cli_read_tokens(cli_text(args, "tokens-file"), &j.ids, &j.count)) return cli_failed();
  if (!j.count) {
    cli_error("%s: no token ids; at least one is needed", cli_text(args, "tokens-file"));
    zm_tokens_free(j.ids);
    return CLI_FAILURE;
  }
  j.model = cli_open_model(args, &status);
  if (j.model && write_logits(&j)) status = cli_failed();
  zm_model_close(j.model);
  zm_tokens_free(j.ids);
  zmi_free(j.logits);
  zmi_free(j.nll);
  return status;
}

const cli_command cli_logits = {
  .name = "logits",
  .summary = "Writes logits and token likelihoods of a text",
  .arguments = "MODEL",
  .options = options,
  .model_options = true,
  .notes = "FILE gets logits, float32 [K, vocabulary], of the last K positions, and nll,\n"
           "float32 [n-1]: minus the log likelihood, in nats, of token i+1 given 0 to i.",
  .run = run_logits,
};
