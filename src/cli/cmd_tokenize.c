// zmlx tokenize: text to token ids.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
  {"text", 0, CLI_STRING, "TEXT", 0, 0, NULL, "text to encode"},
  {"file", 'f', CLI_PATH, "FILE", 0, 0, NULL, "encode the bytes of FILE, - for stdin"},
  {"special", 0, CLI_FLAG, NULL, 0, 0, NULL, "add the tokens that the tokenizer puts around"},
  {"plain", 0, CLI_FLAG, NULL, 0, 0, NULL, "special tokens in the text are plain text"},
  {"count", 0, CLI_FLAG, NULL, 0, 0, NULL, "print the number of tokens only"},
  {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print a JSON array"},
  CLI_END,
};

static void print_ids(const cli_args *args, const int32_t *ids, size_t count) {
  if (cli_flag(args, "count")) {
    cli_print("%zu\n", count);
    return;
  }
  bool json = cli_flag(args, "json");
  if (json) cli_print("[");
  for (size_t i = 0; i < count; i++) cli_print(i ? json ? ", %d" : " %d" : "%d", ids[i]);
  cli_print(json ? "]\n" : "\n");
}

static int run_tokenize(const cli_args *args) {
  const char *file = cli_text(args, "file"), *text = cli_text(args, "text");
  if ((file != NULL) + (text != NULL) != 1) return cli_usage("give the text by exactly one of --text TEXT and --file FILE");
  char *data = NULL;
  size_t size = 0;
  if (file && cli_read_input(file, &data, &size)) return cli_failed();
  if (text) size = strlen(text);
  zm_tokenizer *t = zm_tokenizer_open(args->positional[0]);
  int32_t *ids = NULL;
  size_t count = 0;
  zm_encode_options o = {.add_special = cli_flag(args, "special"), .plain = cli_flag(args, "plain")};
  int status = CLI_OK;
  if (!t) status = cli_failed();
  else if (zm_tokenizer_encode(t, file ? data : text, size, &o, &ids, &count)) {
    zmi_fail_within("%s", file ? file : "the text");
    status = cli_failed();
  } else {
    print_ids(args, ids, count);
  }
  zm_tokens_free(ids);
  zm_tokenizer_close(t);
  zmi_free(data);
  return status;
}

const cli_command cli_tokenize = {
  .name = "tokenize",
  .summary = "Turns text into token ids, printed on one line",
  .arguments = "MODEL",
  .options = options,
  .notes = "MODEL is a checkpoint folder or a tokenizer.json.",
  .run = run_tokenize,
};
