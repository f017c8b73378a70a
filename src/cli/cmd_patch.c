// zmlx patch: what each pattern fuses in a model, and what it leaves alone and why.
#include "cli/cli.h"

#include <string.h>

static const cli_option options[] = {
  {"smart", 0, CLI_FLAG, NULL, 0, 0, NULL, "time decoding, keep what is faster, remember it"},
  {"again", 0, CLI_FLAG, NULL, 0, 0, NULL, "with --smart: time again, replace what was kept"},
  {"all", 'a', CLI_FLAG, NULL, 0, 0, NULL, "a line for each place"},
  {"json", 0, CLI_FLAG, NULL, 0, 0, NULL, "print one JSON object"},
  CLI_END,
};

static bool same_kind(const zm_patch_entry *a, const zm_patch_entry *b) {
  return strcmp(a->pattern, b->pattern) == 0 && a->matched == b->matched && strcmp(a->reason, b->reason) == 0;
}

static void add_row(zmi_text *rows, const zm_patch_entry *e, const zm_patch_entry *last, size_t places, bool timed) {
  zmi_text_add(rows, "%s\t%s\t%zu\t", e->pattern, e->matched ? "fused" : "left alone", places);
  if (timed && e->speedup > 0) zmi_text_add(rows, "%.3f (%.3f to %.3f)", e->speedup, e->speedup_low, e->speedup_high);
  if (timed) zmi_text_add(rows, "\t");
  if (places > 1) zmi_text_add(rows, "%s to %s", e->place, last->place);
  else zmi_text_add(rows, "%s", e->place);
  zmi_text_add(rows, "\t%s\n", e->reason);
}

// Places of one pattern with one outcome share a row unless --all is given.
static void print_table(const cli_args *args, const zm_patch_report *r) {
  size_t count = zm_patch_report_size(r);
  bool all = cli_flag(args, "all"), timed = false;
  for (size_t i = 0; i < count; i++) timed = timed || zm_patch_report_entry(r, i)->speedup > 0;
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&rows, "pattern\toutcome\t>places\t%splace\twhat and why\n", timed ? "decode speedup\t" : "");
  for (size_t i = 0; i < count; i++) {
    const zm_patch_entry *e = zm_patch_report_entry(r, i), *last = e;
    bool first = true;
    for (size_t k = 0; k < i && first && !all; k++) first = !same_kind(zm_patch_report_entry(r, k), e);
    if (!first) continue;
    size_t places = 1;
    for (size_t k = i + 1; k < count && !all; k++) {
      const zm_patch_entry *other = zm_patch_report_entry(r, k);
      if (!same_kind(e, other)) continue;
      places++;
      last = other;
    }
    add_row(&rows, e, last, places, timed);
  }
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  cli_print_text(&out);
}

static void print_json(const zm_patch_report *r) {
  json_t *list = json_array();
  for (size_t i = 0; i < zm_patch_report_size(r); i++) {
    const zm_patch_entry *e = zm_patch_report_entry(r, i);
    json_t *o = json_pack("{s:s, s:s, s:b, s:s}", "pattern", e->pattern, "place", e->place, "matched", e->matched, "reason", e->reason);
    if (e->speedup > 0)
      json_object_set_new(o, "speedup", json_pack("{s:f, s:f, s:f}", "median", e->speedup, "low", e->speedup_low, "high", e->speedup_high));
    json_array_append_new(list, o);
  }
  cli_print_json(json_pack("{s:o}", "entries", list));
}

// zm_patch for the names of --patch.
static zm_status patch_by_names(const cli_args *args, zm_model *m, zm_patch_report **report) {
  zmi_patterns patterns;
  zm_status status = cli_pattern_choice(cli_text(args, "patch"), &patterns);
  const char *names[64];
  size_t count = 0;
  for (size_t i = 0; i < zm_pattern_count() && i < ZMI_COUNT(names); i++)
    if (patterns >> i & 1) names[count++] = zm_pattern_name(i);
  return status ? status : zm_patch(m, &(zm_patch_options){.patterns = names, .count = count}, report);
}

static int run_patch(const cli_args *args) {
  bool smart = cli_flag(args, "smart") || strcmp(cli_text(args, "patch"), "smart") == 0;
  zmi_patterns checked;
  if (cli_flag(args, "again") && !smart) return cli_usage("--again needs --smart: only what was timed is remembered");
  if (!smart && cli_pattern_choice(cli_text(args, "patch"), &checked)) return cli_usage("%s", zm_last_error());
  int status = CLI_OK;
  zm_model *m = cli_open_stock_model(args, &status);
  if (!m) return status;
  zm_patch_report *report = NULL;
  zm_smart_patch_options o = {.measure_again = cli_flag(args, "again"), .progress = cli_progress};
  zm_status failed = smart ? zm_smart_patch(m, &o, &report) : patch_by_names(args, m, &report);
  cli_progress_end();
  if (failed) status = cli_failed();
  else if (cli_flag(args, "json")) print_json(report);
  else print_table(args, report);
  zm_patch_report_free(report);
  zm_model_close(m);
  return status;
}

const cli_command cli_patch = {
  .name = "patch",
  .summary = "Reports what the patterns fuse in a model, and times them",
  .arguments = "MODEL",
  .options = options,
  .model_options = true,
  .run = run_patch,
};
