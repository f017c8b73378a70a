// Actions of zmlx kernel over the catalog: the list, sources and times; and what all of them share: names, groups, calls on samples.
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

static const zmi_catalog_group *find_group(const char *name) {
  for (size_t g = 0; zmi_catalog_groups[g]; g++)
    if (strcmp(zmi_catalog_groups[g]->name, name) == 0) return zmi_catalog_groups[g];
  return NULL;
}

static const zmi_entry *find(const char *name) {
  const zmi_entry *e = zmi_catalog_find(name);
  const zmi_catalog_group *group = e ? NULL : find_group(name);
  const char *nearest = e ? NULL : cli_nearest(name, entry_name, NULL);
  if (group)
    cli_usage("%s is a group of kernels: choose one of them, like %s; zmlx kernel list shows all", name, group->entries[0].name);
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
  char *source = zmi_entry_source(e, zm_dtype_from_name(cli_text(args, "dtype")), cli_text(args, "target"), cli_flag(args, "full"));
  if (!source) return cli_failed();
  if (cli_flag(args, "json"))
    cli_print_json(json_pack("{s:s, s:s, s:s}", "name", e->name, "target", cli_text(args, "target"), "source", source));
  else
    cli_write(source, strlen(source));
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
} timing;

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
  zm_scope_close(scope);
  zmi_free(seconds);
  return status;
}

int cli_kernel_bench(const cli_args *args, const char *name) {
  const zmi_catalog_group *group;
  const zmi_entry *e;
  cli_kernel_choice only;
  if (!cli_kernel_choose(name, &only)) return CLI_USAGE;
  setenv("ZMLX_KERNELS", "compile", 0); // a steady state is asked for, unless the user says otherwise
  json_t *list = json_array();
  zmi_text rows = {0}, out = {0};
  zmi_text_add(&rows, "name\t>microseconds\t>low\t>high\t>GB/s\n");
  int status = CLI_OK;
  for (size_t i = 0; (e = zmi_catalog_at(i, &group)) != NULL && !cli_interrupted(); i++) {
    timing t = {.bytes = 0};
    if (!cli_kernel_is_chosen(&only, e, group)) continue;
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
