// zmlx detokenize: token ids back to the bytes that they stand for.
#include "cli/cli.h"

static const cli_option options[] = {
  {"tokens-file", 'f', CLI_PATH, "FILE", 0, 0, NULL, "token ids separated by blanks, - for stdin"},
  {"skip-special", 0, CLI_FLAG, NULL, 0, 0, NULL, "leave special tokens out"},
  CLI_END,
};

static int run_detokenize(const cli_args *args) {
  const char *file = cli_text(args, "tokens-file");
  if (!file) return cli_usage("detokenize needs --tokens-file FILE");
  int32_t *ids;
  size_t count, size = 0;
  if (cli_read_tokens(file, &ids, &count)) return cli_failed();
  zm_tokenizer *t = zm_tokenizer_open(args->positional[0]);
  char *text = NULL;
  int status = CLI_OK;
  if (!t || zm_tokenizer_decode(t, ids, count, &(zm_decode_options){.skip_special = cli_flag(args, "skip-special")}, &text, &size))
    status = cli_failed();
  else
    cli_write(text, size);
  zm_text_free(text);
  zm_tokenizer_close(t);
  zm_tokens_free(ids);
  return status;
}

const cli_command cli_detokenize = {
  .name = "detokenize",
  .summary = "Turns token ids back into the exact bytes of the text",
  .arguments = "MODEL",
  .options = options,
  .notes = "MODEL is a checkpoint folder or a tokenizer.json.",
  .run = run_detokenize,
};
