// What commands share: the options of models, opening and patching one, reading token files.
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const cli_option cli_model_options[] = {
  {"patch", 0, CLI_STRING, "P", 0, 0, "all", "none, all, smart, names joined by commas"},
  {"threads", 't', CLI_INT, "N", 1, 1024, "one for each CPU", "worker threads"},
  {"device", 0, CLI_CHOICE, "cpu|cuda", 0, 0, "cpu", "what plays: same bits on both"},
  {"executor", 0, CLI_CHOICE, ZMI_EXECUTOR_NAMES, 0, 0, "auto", "how a GPU plays"},
  {"isa", 0, CLI_STRING, "TIER", 0, 0, "the best", "highest CPU tier: scalar, avx2, ..."},
  {"dtype", 0, CLI_CHOICE, "bfloat16|float32", 0, 0, NULL, "compute in it (default: as stored)"},
  {"activations", 0, CLI_CHOICE, "exact|int8", 0, 0, "exact", "int8: faster prompts, other numbers"},
  {"memory-limit", 0, CLI_FLOAT, "GB", 0.001, 1e6, NULL, "refuse models that need more memory"},
  CLI_END,
};

zm_model *cli_open_stock_model(const cli_args *args, int *status) {
  zm_model_options o = {
    .dtype = cli_given(args, "dtype") ? zm_dtype_from_name(cli_text(args, "dtype")) : ZM_DTYPE_DEFAULT,
    .threads = (int)cli_int(args, "threads"),
    .activations = strcmp(cli_text(args, "activations"), "int8") == 0 ? ZM_ACTIVATIONS_INT8 : ZM_ACTIVATIONS_EXACT,
    .device = strcmp(cli_text(args, "device"), "cuda") == 0 ? ZM_MODEL_CUDA : ZM_MODEL_CPU,
    .executor = (zm_executor)zmi_executor_find(cli_text(args, "executor")), // one list: models/model.c
    .isa = cli_given(args, "isa") ? cli_text(args, "isa") : NULL,
    .memory_limit = (uint64_t)(cli_float(args, "memory-limit") * 1e9),
    .context = cli_given(args, "context") ? (int32_t)cli_int(args, "context") : 0, // not every command has this option
    .progress = cli_progress,
  };
  zm_model *m = zm_model_open(args->positional[0], &o);
  cli_progress_end();
  if (m && cli_interrupted()) {
    zm_model_close(m);
    m = NULL;
    if (cli_interrupt_claim()) cli_error("interrupted");
    *status = cli_interrupt_status();
  } else if (!m) {
    *status = cli_failed();
  }
  return m;
}

// ---- patterns ----

zm_status cli_pattern_choice(const char *text, zmi_patterns *patterns) {
  *patterns = 0;
  if (strcmp(text, "none") == 0) return ZM_OK;
  if (strcmp(text, "all") == 0) return zmi_patterns_choose(NULL, patterns);
  size_t size = strlen(text), count = 0;
  char *copy = zmi_strdup(text);
  const char **names = zmi_calloc(size + 1, sizeof *names);
  zm_status status = copy && names ? ZM_OK : ZM_ERROR_MEMORY;
  char *rest = NULL;
  for (char *name = copy ? strtok_r(copy, ",", &rest) : NULL; name && !status; name = strtok_r(NULL, ",", &rest)) names[count++] = name;
  if (!status && !count)
    status = zmi_fail(ZM_ERROR_ARGUMENT, "no pattern is named; none, all, smart or names joined by commas are allowed");
  if (!status) status = zmi_patterns_choose(&(zm_patch_options){.patterns = names, .count = count}, patterns);
  zmi_free(names);
  zmi_free(copy);
  return status ? zmi_fail_within("--patch") : ZM_OK;
}

zm_model *cli_open_model(const cli_args *args, int *status) {
  const char *patch = cli_text(args, "patch");
  bool smart = strcmp(patch, "smart") == 0;
  zmi_patterns patterns = 0;
  if (!smart && cli_pattern_choice(patch, &patterns)) { // before the model is loaded
    *status = cli_failed();
    if (zm_last_status() == ZM_ERROR_ARGUMENT) *status = CLI_USAGE;
    return NULL;
  }
  zm_model *m = cli_open_stock_model(args, status);
  if (!m) return NULL;
  if (!smart) {
    zmi_model_set_patterns(m, patterns);
    return m;
  }
  zm_status failed = zm_smart_patch(m, &(zm_smart_patch_options){.progress = cli_progress}, NULL);
  cli_progress_end();
  if (!failed) return m;
  *status = cli_failed();
  zm_model_close(m);
  return NULL;
}

// ---- inputs ----

enum { INPUT_LIMIT = 1 << 30 };

zm_status cli_read_input(const char *path, char **data, size_t *size) {
  if (strcmp(path, "-") == 0) return zmi_read_file("/dev/stdin", INPUT_LIMIT, data, size) ? zmi_fail_within("standard input") : ZM_OK;
  return zmi_read_file(path, INPUT_LIMIT, data, size);
}

static zm_status parse_tokens(const char *path, const char *text, size_t size, int32_t **ids, size_t *count) {
  static const char blanks[] = " \t\r\n\v\f";
  size_t capacity = 0;
  *ids = NULL;
  *count = 0;
  if (memchr(text, 0, size))
    return zmi_fail(ZM_ERROR_FORMAT, "%s: a zero byte stands where token ids separated by blanks were expected", path);
  for (const char *p = text + strspn(text, blanks); *p; p += strspn(p, blanks)) {
    size_t digits = strspn(p, "0123456789"), word = strcspn(p, blanks);
    errno = 0;
    long long id = strtoll(p, NULL, 10);
    if (digits != word || errno || id > INT32_MAX)
      return zmi_fail(ZM_ERROR_FORMAT, "%s: token %zu is '%.*s', but token ids are numbers separated by blanks", path, *count,
                      (int)ZMI_MIN(word, (size_t)24), p);
    if (!ZMI_GROW(*ids, capacity, *count + 1)) return ZM_ERROR_MEMORY;
    (*ids)[(*count)++] = (int32_t)id;
    p += word;
  }
  return ZM_OK;
}

zm_status cli_read_tokens(const char *path, int32_t **ids, size_t *count) {
  char *text;
  size_t size;
  zm_status status = cli_read_input(path, &text, &size);
  if (status) return status;
  status = parse_tokens(path, text, size, ids, count);
  zmi_free(text);
  if (status) {
    zm_tokens_free(*ids);
    *ids = NULL;
    *count = 0;
  }
  return status;
}
