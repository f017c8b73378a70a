// Actions of zmlx kernel over the catalog: the list, sources and times; and what all of them share: names, groups, calls on samples.
#include "catalog/catalog.h"
#include "cli/kernel.h"

#include <stdlib.h>
#include <string.h>

// ---- rows ----

static const char *entry_name(const void *list, size_t i) {
  (void)list;
  const size_t count = zmi_catalog_count();
  const zmi_entry *e = zmi_catalog_at(i < count ? i : i - count, NULL); // by their names, then by those of their functions
  return !e ? NULL : i < count ? e->name : zmi_entry_function(e);
}

static const zmi_catalog_group *find_group(const char *name) {
  for (size_t g = 0; zmi_catalog_groups[g]; g++)
    if (strcmp(zmi_catalog_groups[g]->name, name) == 0) return zmi_catalog_groups[g];
  return NULL;
}

static const zmi_entry *find(const char *name) {
  const zmi_entry *e = zmi_catalog_find(name);
  const zmi_catalog_group *group = e ? NULL : find_group(name);
  const char *nearest = e ? NULL : cli_nearest(strncmp(name, "zm_", 3) == 0 ? name + 3 : name, entry_name, NULL);
  if (group)
    cli_usage("%s is a group of kernels: choose one of them, like %s; zmlx kernel list %s shows all", name, group->entries[0].name, name);
  else if (nearest)
    cli_usage("the catalog has no kernel %s: did you mean %s?", name, nearest);
  else if (!e)
    cli_usage("the catalog has no kernel %s: see zmlx kernel list", name);
  return e;
}

bool cli_kernel_choose(const char *name, cli_kernel_choice *c) {
  *c = (cli_kernel_choice){0};
  if (!name || (c->entry = zmi_catalog_find(name)) != NULL) return true;
  c->group = find_group(name);
  if (!c->group) c->entry = find(name);
  return c->group || c->entry;
}

bool cli_kernel_is_chosen(const cli_kernel_choice *c, const zmi_entry *e, const zmi_catalog_group *group) {
  return c->group ? c->group == group : !c->entry || c->entry == e;
}

// ---- list ----

static const char *dtypes_of(const zmi_entry *e) {
  return e->dtypes ? e->dtypes : "float16, bfloat16, float32";
}

static void list_json(const cli_kernel_choice *only) {
  const zmi_catalog_group *group = NULL;
  const zmi_entry *e;
  json_t *list = json_array();
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && list; i++) {
    if (!cli_kernel_is_chosen(only, e, group)) continue;
    json_array_append_new(list,
                          json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s?, s:s, s:s?, s:s?, s:s?}", "name", e->name, "group", group->name,
                                    "file", group->file, "form", zmi_entry_form(e), "formula", e->formula, "shapes", e->shapes, "dtypes",
                                    dtypes_of(e), "gradient", e->gradient, "parameters", e->parameters, "tape", zmi_entry_tape(e)));
  }
  cli_print_json(json_pack("{s:o}", "kernels", list));
}

// The ops of models' tapes that the row is the code of, and the fused ops that do the same: "rms_norm (fused_qkv, fused_residual_norm)".
static void add_tape(zmi_text *out, const zmi_entry *e) {
  const char *next = zmi_entry_tape(e);
  while (*next) {
    char word[64];
    const int size = (int)strcspn(next, " ");
    int found = 0;
    snprintf(word, sizeof word, "%.*s", size, next);
    zmi_text_add(out, "%s%s", next == zmi_entry_tape(e) ? "" : ", ", word);
    for (size_t i = 0; i < zmi_patch_op_count(); i++) {
      const zmi_op *fused = zmi_patch_op_at(i);
      if (zmi_patch_op_replaces(fused, word)) zmi_text_add(out, "%s%s", found++ ? ", " : " (in ", fused->name);
    }
    if (found) zmi_text_add(out, ")");
    next += size + (next[size] != 0);
  }
}

// All that the catalog says of one row.
static void list_one(const zmi_entry *e) {
  const zmi_catalog_group *group = NULL;
  for (size_t i = 0; zmi_catalog_at(i, &group) != e; i++) continue;
  cli_print("name        %s\nfunction    zm_%s\ngroup       %s: %s\n", e->name, zmi_entry_function(e), group->name, group->file);
  cli_print("form        %s\nformula     %s\nshapes      %s\n", zmi_entry_form(e), e->formula, e->shapes);
  cli_print("dtypes      %s\ngradient    %s\n", dtypes_of(e), e->gradient);
  if (e->parameters) cli_print("parameters  %s\n", e->parameters);
  if (zmi_entry_tape(e)) {
    zmi_text tape = {0};
    add_tape(&tape, e);
    cli_print("tape        %s\n", zmi_text_str(&tape));
    zmi_text_release(&tape);
  }
}

// What fits in a cell of the table: whole words, with dots for the rest.
static void add_short(zmi_text *out, const char *s) {
  enum { COLUMNS = 48 };
  size_t size = strlen(s);
  if (size > COLUMNS) {
    for (size = COLUMNS - 4; size > 0 && s[size] != ' '; size--) continue;
    zmi_text_add(out, "%.*s ...", (int)size, s);
  } else {
    zmi_text_add(out, "%s", s);
  }
}

int cli_kernel_list(const cli_args *args, const char *name) {
  const zmi_catalog_group *group = NULL;
  const zmi_entry *e;
  cli_kernel_choice only;
  if (!cli_kernel_choose(name, &only)) return CLI_USAGE;
  if (cli_flag(args, "json")) {
    list_json(&only);
  } else if (only.entry) {
    list_one(only.entry);
  } else {
    zmi_text rows = {0}, out = {0};
    zmi_text_add(&rows, "name\tgroup\tform\tformula\n");
    for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL; i++) {
      if (!cli_kernel_is_chosen(&only, e, group)) continue;
      zmi_text_add(&rows, "%s\t%s\t%s\t", e->name, group->name, zmi_entry_form(e));
      add_short(&rows, e->formula);
      zmi_text_add(&rows, "\n");
    }
    cli_table(zmi_text_str(&rows), &out);
    zmi_text_release(&rows);
    cli_print_text(&out);
  }
  return CLI_OK;
}

// ---- show ----

// What has no source in the kernel language. Nothing is printed that a compiler could take for one.
static int refuse_operations(const cli_args *args, const zmi_entry *e, bool gradients) {
  const zmi_catalog_group *group = NULL;
  for (size_t i = 0; zmi_catalog_at(i, &group) != e; i++) continue;
  cli_error("%s%s %s no source for %s: %s made of operations in C, in %s", gradients ? "the gradients of " : "", e->name,
            gradients ? "have" : "has", cli_text(args, "target"), gradients ? "they are" : "it is", group->file);
  return CLI_FAILURE;
}

// What decodes with these bits, as a comment in front of the source.
static void show_tape(const cli_args *args, const zmi_entry *e) {
  zmi_text out = {0};
  if (!zmi_entry_tape(e) || cli_flag(args, "vjp") || cli_flag(args, "json")) return;
  zmi_text_add(&out, "// The code of tape ops: ");
  add_tape(&out, e);
  cli_print("%s\n", zmi_text_str(&out));
  zmi_text_release(&out);
}

int cli_kernel_show(const cli_args *args, const char *name) {
  const zm_dtype dtype = zm_dtype_from_name(cli_text(args, "dtype"));
  const bool gradients = cli_flag(args, "vjp");
  const zmi_entry *e = find(name);
  zmi_text out = {0};
  if (!e) return CLI_USAGE;
  if (!e->definition) return refuse_operations(args, e, false);
  if (gradients && strncmp(e->gradient, "none", 4) == 0) {
    cli_error("%s has no gradient: %s", e->name, e->gradient[4] == ':' ? e->gradient + 6 : e->formula);
    return CLI_FAILURE;
  }
  char *source = gradients ? NULL : zmi_entry_source(e, dtype, cli_text(args, "target"), cli_flag(args, "full"));
  zmi_code *code = gradients ? zmi_entry_code_vjp(e, dtype) : NULL;
  if (!code && gradients && zm_last_status() == ZM_ERROR_UNSUPPORTED) return refuse_operations(args, e, true);
  if (code && cli_kernel_print(code, args, &out) == ZM_OK) source = zmi_strdup(zmi_text_str(&out));
  zmi_code_free(code);
  zmi_text_release(&out);
  if (!source) return cli_failed();
  if (cli_flag(args, "json"))
    cli_print_json(json_pack("{s:s, s:s, s:s, s:s?}", "name", e->name, "target", cli_text(args, "target"), "source", source, "tape",
                             gradients ? NULL : zmi_entry_tape(e)));
  else
    show_tape(args, e), cli_write(source, strlen(source));
  zm_free_text(source);
  return CLI_OK;
}

// ---- calls ----

zm_status cli_kernel_prepare(cli_kernel_call *c, const zmi_entry *e, zm_dtype dtype, int64_t elements) {
  *c = (cli_kernel_call){.e = e, .nout = e->outputs ? e->outputs : 1};
  zmi_entry_parameters(e, c->params);
  c->nin = zmi_entry_sample(e, dtype, elements, c->in);
  if (c->nin < 0) return zm_last_status();
  return zm_eval(c->in, (size_t)c->nin);
}

static zm_status evaluate(cli_kernel_call *c) {
  zm_status status = zmi_entry_call(c->e, c->in, c->nin, c->params, c->out);
  return status == ZM_OK ? zm_eval(c->out, (size_t)c->nout) : status;
}

static double bytes_of(zm_array *const *arrays, int n) {
  double bytes = 0;
  for (int i = 0; i < n; i++) bytes += (double)zm_array_size(arrays[i]) * (double)zm_dtype_size(zm_array_dtype(arrays[i]));
  return bytes;
}

// ---- bench ----

typedef struct timing {
  zmi_interval seconds;
  double bytes;
  char interpreted[CLI_KERNEL_WHY]; // why; "": what was timed was compiled
} timing;

// Times have to say what they are of. The same call once more, as a program whose kernels can be looked at.
static void look_at_kernels(cli_kernel_call *c, char why[CLI_KERNEL_WHY]) {
  static const char *const names[ZMI_CATALOG_OUT] = {"0", "1", "2", "3", "4", "5", "6", "7"};
  zmi_pool *pool;
  const zmi_kernels *kernels;
  zm_scope *scope = zm_scope_open();
  zmi_program *p = NULL;
  if (scope && zmi_device(&pool, &kernels) == ZM_OK && zmi_entry_call(c->e, c->in, c->nin, c->params, c->out) == ZM_OK)
    p = zmi_compile(c->out, names, (size_t)c->nout, &(zmi_compile_options){.kernels = kernels});
  if (p) {
    zmi_program_play(p, pool);
    cli_kernel_not_compiled(zmi_program_tape(p), why);
  }
  zmi_program_free(p);
  zm_scope_close(scope);
}

enum { INTERVAL_RUNS = 6 }; // of fewer runs no two are an interval of 95%

static zm_status measure(const zmi_entry *e, const cli_args *args, timing *t) {
  const int runs = (int)cli_int(args, "runs");
  cli_kernel_call c;
  double *seconds = zmi_calloc((size_t)runs, sizeof *seconds);
  zm_scope *scope = seconds ? zm_scope_open() : NULL;
  zm_status status =
      scope ? cli_kernel_prepare(&c, e, zm_dtype_from_name(cli_text(args, "dtype")), cli_int(args, "elements")) : zm_last_status();
  for (int r = -2; r < runs && status == ZM_OK; r++) { // twice to warm up: compilation, caches
    zm_scope *inner = zm_scope_open();
    const double start = zmi_now();
    status = inner ? evaluate(&c) : zm_last_status();
    if (r >= 0) seconds[r] = zmi_now() - start;
    if (r == runs - 1 && status == ZM_OK) t->bytes = bytes_of(c.in, c.nin) + bytes_of(c.out, c.nout);
    zm_scope_close(inner);
  }
  if (status == ZM_OK) status = zmi_median_interval(seconds, (size_t)runs, &t->seconds);
  if (status == ZM_OK) look_at_kernels(&c, t->interpreted);
  zm_scope_close(scope);
  zmi_free(seconds);
  return status;
}

// The threads that kernels run on, and what they read from memory in GB/s.
static zm_status look_at_device(int *threads, double *bandwidth) {
  zmi_pool *pool;
  const zmi_kernels *kernels;
  const zm_status status = zmi_device(&pool, &kernels);
  if (status != ZM_OK) return status;
  zmi_bandwidth *memory = zmi_bandwidth_new(pool);
  *threads = zmi_pool_workers(pool);
  *bandwidth = 0;
  for (int i = 0; i < 3 && memory; i++) { // the best: what else runs here only takes away
    const double found = zmi_bandwidth_measure(memory);
    *bandwidth = ZMI_MAX(*bandwidth, found);
  }
  zmi_bandwidth_free(memory);
  return memory ? ZM_OK : zm_last_status();
}

static void add_timing(const zmi_entry *e, const timing *t, bool interval, double bandwidth, zmi_text *rows, json_t *list) {
  const zmi_interval *s = &t->seconds;
  const double rate = s->median > 0 ? t->bytes / s->median / 1e9 : 0, share = bandwidth > 0 ? rate / bandwidth : 0;
  zmi_text_add(rows, "%s\t%.1f\t", e->name, s->median * 1e6);
  if (interval) zmi_text_add(rows, "%.1f\t%.1f\t", s->low * 1e6, s->high * 1e6);
  zmi_text_add(rows, "%.2f\t%.0f%%\n", rate, 100 * share);
  json_t *row = json_pack("{s:s, s:f, s:f, s:f}", "name", e->name, "seconds", s->median, "bytes", t->bytes, "share_of_bandwidth", share);
  if (row && interval) json_object_update_new(row, json_pack("{s:f, s:f}", "low", s->low, "high", s->high));
  if (row && t->interpreted[0]) json_object_set_new(row, "interpreted", json_string(t->interpreted));
  json_array_append_new(list, row);
}

int cli_kernel_bench(const cli_args *args, const char *name) {
  const zmi_catalog_group *group;
  const zmi_entry *e;
  const bool interval = cli_int(args, "runs") >= INTERVAL_RUNS;
  cli_kernel_choice only;
  int threads = 0, status = CLI_OK;
  double bandwidth = 0;
  if (!cli_kernel_choose(name, &only)) return CLI_USAGE;
  setenv("ZMLX_KERNELS", "compile", 0); // a steady state is asked for, unless the user says otherwise
  if (look_at_device(&threads, &bandwidth) != ZM_OK) return cli_failed();
  json_t *list = json_array();
  zmi_text rows = {0}, out = {0}, remarks = {0};
  zmi_text_add(&rows, "name\t>microseconds\t%s>GB/s\t>of reading\n", interval ? ">low\t>high\t" : "");
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && !cli_interrupted(); i++) {
    timing t = {.bytes = 0};
    if (!cli_kernel_is_chosen(&only, e, group)) continue;
    if (measure(e, args, &t) == ZM_OK) {
      add_timing(e, &t, interval, bandwidth, &rows, list);
      if (t.interpreted[0]) zmi_text_add(&remarks, "%s is the time of the interpreter: %s\n", e->name, t.interpreted);
    } else {
      cli_error("%s: %s", e->name, zm_last_error());
      status = CLI_FAILURE;
    }
  }
  if (cli_flag(args, "json")) {
    cli_print_json(json_pack("{s:s, s:I, s:i, s:f, s:O}", "dtype", cli_text(args, "dtype"), "elements",
                             (json_int_t)cli_int(args, "elements"), "threads", threads, "read_bandwidth_gb_s", bandwidth, "kernels", list));
  } else {
    cli_table(zmi_text_str(&rows), &out);
    zmi_text_add(&out, "%d thread%s; they read %.1f GB/s from memory; above that the caches serve\n", threads, threads == 1 ? "" : "s",
                 bandwidth);
    zmi_text_add(&out, "%s", zmi_text_str(&remarks));
  }
  json_decref(list);
  zmi_text_release(&rows);
  zmi_text_release(&remarks);
  cli_print_text(&out);
  return cli_interrupted() ? cli_interrupt_status() : status;
}
