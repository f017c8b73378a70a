// zmlx synth: a checkpoint of random weights in the shapes of a configuration, for speed and memory measurements.
#include "cli/cli.h"

static const cli_option options[] = {
  {"seed", 's', CLI_INT, "N", 0, 9007199254740992.0, "0", "same seed, same bytes"},
  {"quiet", 'q', CLI_FLAG, NULL, 0, 0, NULL, "print nothing"},
  CLI_END,
};

static int run_synth(const cli_args *args) {
  cli_interrupt_grace(5, NULL); // time to remove unfinished files
  double start = zmi_now();
  zm_status failed = zmi_synth(args->positional[0], args->positional[1], (uint64_t)cli_int(args, "seed"), cli_progress, NULL);
  cli_progress_end();
  if (failed) return cli_failed();
  if (!cli_flag(args, "quiet")) cli_note("%s written in %.1f s", args->positional[1], zmi_now() - start);
  return CLI_OK;
}

const cli_command cli_synth = {
  .name = "synth",
  .summary = "Makes a checkpoint of random weights from a config.json",
  .arguments = "CONFIG_DIR OUT_DIR",
  .options = options,
  .notes = "OUT_DIR gets config.json, *.safetensors and their index.",
  .run = run_synth,
};
