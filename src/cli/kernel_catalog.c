// Actions of zmlx kernel over the catalog: the list, sources, times, and compiled code against the interpreter.
#include "catalog/catalog.h"
#include "cli/kernel.h"

#include <stdlib.h>
#include <string.h>

// ---- rows ----

static const char *entry_name(const void *list, size_t i) {
  (void)list;
  const zmi_entry *e = zmi_catalog_at(i, NULL);
  return e ? e->name : NULL;
}

static const zmi_entry *find(const char *name) {
  const zmi_entry *e = zmi_catalog_find(name);
  if (e) return e;
  const char *nearest = cli_nearest(name, entry_name, NULL);
  cli_usage("the catalog has no kernel %s: %s%s", name, nearest ? "did you mean " : "see zmlx kernel list", nearest ? nearest : "");
  return NULL;
}

// What NAME of bench and test picks: one kernel, the kernels of a group, or all if it is NULL.
typedef struct choice {
  const zmi_entry *entry;
  const zmi_catalog_group *group;
} choice;

static bool choose(const char *name, choice *c) {
  *c = (choice){0};
  if (!name || (c->entry = zmi_catalog_find(name)) != NULL) return true;
  for (size_t g = 0; zmi_catalog_groups[g]; g++) {
    if (strcmp(zmi_catalog_groups[g]->name, name) == 0) c->group = zmi_catalog_groups[g];
  }
  if (!c->group) c->entry = find(name);
  return c->group || c->entry;
}

static bool is_chosen(const choice *c, const zmi_entry *e, const zmi_catalog_group *group) {
  return c->group ? c->group == group : !c->entry || c->entry == e;
}

static const char *form_of(const zmi_entry *e) {
  static const char *const forms[] = {"elements", "rows", "tiles", "raw"};
  return e->definition ? forms[e->definition->form] : "operations";
}

int cli_kernel_list(const cli_args *args) {
  const zmi_catalog_group *group = NULL;
  const zmi_entry *e;
  if (cli_flag(args, "json")) {
    json_t *list = json_array();
    for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && list; i++)
      json_array_append_new(list,
                            json_pack("{s:s, s:s, s:s, s:s?, s:s?, s:s?, s:s?}", "name", e->name, "group", group->name, "form", form_of(e),
                                      "formula", e->formula, "shapes", e->shapes, "gradient", e->gradient, "parameters", e->parameters));
    cli_print_json(json_pack("{s:o}", "kernels", list));
    return CLI_OK;
  }
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&rows, "name\tgroup\tform\tgradient\tformula\n");
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL; i++) {
    const char *gradient = e->gradient ? e->gradient : "none";
    zmi_text_add(&rows, "%s\t%s\t%s\t%.*s\t%.60s\n", e->name, group->name, form_of(e), (int)strcspn(gradient, ":"), gradient,
                 e->formula ? e->formula : "");
  }
  cli_table(zmi_text_str(&rows), &out);
  zmi_text_release(&rows);
  cli_print_text(&out);
  return CLI_OK;
}

int cli_kernel_show(const cli_args *args, const char *name) {
  const zmi_entry *e = find(name);
  if (!e) return CLI_USAGE;
  char *source = zmi_entry_source(e, zm_dtype_from_name(cli_text(args, "dtype")), cli_text(args, "target"));
  if (!source) return cli_failed();
  if (cli_flag(args, "json"))
    cli_print_json(json_pack("{s:s, s:s, s:s}", "name", e->name, "target", cli_text(args, "target"), "source", source));
  else
    cli_write(source, strlen(source));
  zm_free_text(source);
  return CLI_OK;
}

// ---- calls ----

typedef struct call {
  const zmi_entry *e;
  zm_array *in[ZMI_CATALOG_IN], *out[ZMI_CATALOG_OUT];
  double params[ZMI_CATALOG_PARAMS];
  int nin, nout;
} call;

static zm_status prepare(call *c, const zmi_entry *e, zm_dtype dtype, int64_t elements) {
  *c = (call){.e = e, .nout = e->outputs ? e->outputs : 1};
  zmi_entry_parameters(e, c->params);
  c->nin = zmi_entry_sample(e, dtype, elements, c->in);
  if (c->nin < 0) return zm_last_status();
  return zm_eval(c->in, (size_t)c->nin);
}

static zm_status evaluate(call *c) {
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
} timing;

static zm_status measure(const zmi_entry *e, const cli_args *args, timing *t) {
  const int runs = (int)cli_int(args, "runs");
  call c;
  double *seconds = zmi_calloc((size_t)runs, sizeof *seconds);
  zm_scope *scope = seconds ? zm_scope_open() : NULL;
  zm_status status = scope ? prepare(&c, e, zm_dtype_from_name(cli_text(args, "dtype")), cli_int(args, "elements")) : zm_last_status();
  for (int r = -2; r < runs && status == ZM_OK; r++) { // twice to warm up: compilation, caches
    zm_scope *inner = zm_scope_open();
    const double start = zmi_now();
    status = inner ? evaluate(&c) : zm_last_status();
    if (r >= 0) seconds[r] = zmi_now() - start;
    if (r == runs - 1 && status == ZM_OK) t->bytes = bytes_of(c.in, c.nin) + bytes_of(c.out, c.nout);
    zm_scope_close(inner);
  }
  if (status == ZM_OK) status = zmi_median_interval(seconds, (size_t)runs, &t->seconds);
  zm_scope_close(scope);
  zmi_free(seconds);
  return status;
}

int cli_kernel_bench(const cli_args *args, const char *name) {
  const zmi_catalog_group *group;
  const zmi_entry *e;
  choice only;
  if (!choose(name, &only)) return CLI_USAGE;
  setenv("ZMLX_KERNELS", "compile", 0); // a steady state is asked for, unless the user says otherwise
  json_t *list = json_array();
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&rows, "name\t>microseconds\t>low\t>high\t>GB/s\n");
  int status = CLI_OK;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && !cli_interrupted(); i++) {
    timing t = {.bytes = 0};
    if (!is_chosen(&only, e, group)) continue;
    if (measure(e, args, &t) != ZM_OK) {
      cli_error("%s: %s", e->name, zm_last_error());
      status = CLI_FAILURE;
      continue;
    }
    const double rate = t.seconds.median > 0 ? t.bytes / t.seconds.median / 1e9 : 0;
    zmi_text_add(&rows, "%s\t%.1f\t%.1f\t%.1f\t%.2f\n", e->name, t.seconds.median * 1e6, t.seconds.low * 1e6, t.seconds.high * 1e6, rate);
    json_array_append_new(list, json_pack("{s:s, s:f, s:f, s:f, s:f}", "name", e->name, "seconds", t.seconds.median, "low", t.seconds.low,
                                          "high", t.seconds.high, "bytes", t.bytes));
  }
  if (cli_flag(args, "json"))
    cli_print_json(
        json_pack("{s:s, s:I, s:O}", "dtype", cli_text(args, "dtype"), "elements", (json_int_t)cli_int(args, "elements"), "kernels", list));
  else
    cli_table(zmi_text_str(&rows), &out);
  json_decref(list);
  zmi_text_release(&rows);
  cli_print_text(&out);
  return cli_interrupted() ? cli_interrupt_status() : status;
}

// ---- test ----

// Data of the results, kept over a change of how kernels run.
typedef struct kept {
  size_t bytes;
  void *data;
} kept;

// Which NaN a float32 result is, is not part of the promise (docs/numerics.md): all become one.
static void one_nan(kept *k, zm_dtype dtype) {
  uint32_t *words = k->data;
  for (size_t i = 0; dtype == ZM_F32 && i < k->bytes / 4; i++) {
    if ((words[i] & 0x7fffffffu) > 0x7f800000u) words[i] = 0x7fc00000u;
  }
}

static zm_status run_and_keep(const zmi_entry *e, zm_dtype dtype, int64_t elements, kept *results, int *nout) {
  call c;
  zm_scope *scope = zm_scope_open();
  if (!scope) return zm_last_status();
  zm_status status = prepare(&c, e, dtype, elements);
  if (status == ZM_OK) status = evaluate(&c);
  *nout = c.nout;
  for (int o = 0; o < c.nout && status == ZM_OK; o++) {
    const void *data = zm_array_data(c.out[o]);
    results[o].bytes = (size_t)zm_array_size(c.out[o]) * zm_dtype_size(zm_array_dtype(c.out[o]));
    results[o].data = zmi_malloc(results[o].bytes + 1);
    if (!results[o].data || (!data && results[o].bytes))
      status = zm_last_status();
    else if (results[o].bytes)
      memcpy(results[o].data, data, results[o].bytes);
    if (status == ZM_OK) one_nan(&results[o], zm_array_dtype(c.out[o]));
  }
  zm_scope_close(scope);
  return status;
}

// Interpreted first: an instance that was compiled stays so.
static zm_status same_bits(const zmi_entry *e, zm_dtype dtype, int64_t elements, bool *same) {
  static const char *const ways[2] = {"interpret", "compile"};
  kept results[2][ZMI_CATALOG_OUT] = {{{0}}};
  int nout = 0;
  zm_status status = ZM_OK;
  zmi_instance_forget();
  for (int w = 0; w < 2 && status == ZM_OK; w++) {
    setenv("ZMLX_KERNELS", ways[w], 1);
    status = run_and_keep(e, dtype, elements, results[w], &nout);
  }
  *same = status == ZM_OK;
  for (int o = 0; o < nout && *same; o++)
    *same = results[0][o].bytes == results[1][o].bytes && memcmp(results[0][o].data, results[1][o].data, results[0][o].bytes) == 0;
  for (int w = 0; w < 2; w++)
    for (int o = 0; o < ZMI_CATALOG_OUT; o++) zmi_free(results[w][o].data);
  return status;
}

int cli_kernel_test(const cli_args *args, const char *name) {
  static const zm_dtype dtypes[] = {ZM_F32, ZM_F16, ZM_BF16};
  const zmi_catalog_group *group;
  const zmi_entry *e;
  choice only;
  if (!choose(name, &only)) return CLI_USAGE;
  json_t *list = json_array();
  size_t good = 0, bad = 0;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && !cli_interrupted(); i++) {
    if (!is_chosen(&only, e, group)) continue;
    bool passed = true;
    char why[512] = "";
    for (size_t d = 0; d < ZMI_COUNT(dtypes) && passed; d++) {
      bool same = false;
      if (same_bits(e, dtypes[d], 2000, &same) != ZM_OK)
        snprintf(why, sizeof why, "%s: %.450s", zm_dtype_name(dtypes[d]), zm_last_error());
      else if (!same)
        snprintf(why, sizeof why, "%s: compiled and interpreted results differ", zm_dtype_name(dtypes[d]));
      passed = same;
    }
    good += passed, bad += !passed;
    json_array_append_new(list, json_pack("{s:s, s:b, s:s?}", "name", e->name, "passed", passed, "why", passed ? NULL : why));
    if (!cli_flag(args, "json")) cli_print("%s %s%s%s\n", passed ? "ok    " : "FAILED", e->name, passed ? "" : ": ", why);
  }
  if (cli_flag(args, "json"))
    cli_print_json(json_pack("{s:I, s:I, s:O}", "passed", (json_int_t)good, "failed", (json_int_t)bad, "kernels", list));
  else
    cli_print("%zu passed, %zu failed\n", good, bad);
  json_decref(list);
  return cli_interrupted() ? cli_interrupt_status() : bad ? CLI_FAILURE : CLI_OK;
}
