// The table of commands: one line each, in the order in which help lists them.
#include "cli/cli.h"

#define CLI_COMMANDS(X) \
  X(generate) \
  X(validate) \
  X(bench) \
  X(logits) \
  X(patch) \
  X(plan) \
  X(inspect) \
  X(tape) \
  X(kernel) \
  X(tokenize) \
  X(detokenize) \
  X(synth) \
  X(doctor) \
  X(completion) \
  X(help) \
  X(version)

#define X(name) extern const cli_command cli_##name;
CLI_COMMANDS(X)
#undef X

#define X(name) &cli_##name,
const cli_command *const cli_commands[] = {CLI_COMMANDS(X) NULL};
#undef X
