// The table of patterns, the choice of some of them, and reports.
#include "catalog/catalog.h"
#include "patch/fused.h"

#include <stdio.h>
#include <string.h>

// In the order in which they are tried; ends with NULL. At most 63.
static const zmi_pattern *const patterns[] = {
    &zmi_pattern_moe_mlp,
    &zmi_pattern_swiglu_mlp,
    &zmi_pattern_residual_norm,
    &zmi_pattern_qkv,
    &zmi_pattern_short_conv,
    &zmi_pattern_attention_decode,
    NULL,
};

static const zmi_op *const ops[] = {
    &zmi_op_fused_moe_mlp, &zmi_op_fused_swiglu_mlp, &zmi_op_fused_residual_norm,
    &zmi_op_fused_qkv,     &zmi_op_fused_short_conv, &zmi_op_fused_attention,
};

size_t zmi_patch_op_count(void) {
  return ZMI_COUNT(ops);
}

const zmi_op *zmi_patch_op_at(size_t i) {
  return i < ZMI_COUNT(ops) ? ops[i] : NULL;
}

static bool is_of_word(char c) {
  return (c >= 'a' && c <= 'z') || c == '_';
}

bool zmi_patch_op_replaces(const zmi_op *fused, const char *op) {
  const size_t size = strlen(op);
  for (const char *s = fused->rounding; (s = strstr(s, op)) != NULL; s += size) {
    if ((s == fused->rounding || !is_of_word(s[-1])) && !is_of_word(s[size])) return true;
  }
  return false;
}

const zmi_op *zmi_patch_op_find(const char *name) {
  for (size_t i = 0; i < ZMI_COUNT(ops); i++) {
    if (strcmp(ops[i]->name, name) == 0) return ops[i];
  }
  const zmi_op *op = zmi_catalog_op_find(name);
  return op ? op : zmi_op_find(name);
}

size_t zm_pattern_count(void) {
  size_t count = 0;
  while (patterns[count]) count++;
  return count;
}

const char *zm_pattern_name(size_t i) {
  return i < zm_pattern_count() ? patterns[i]->name : NULL;
}

const char *zm_pattern_summary(size_t i) {
  return i < zm_pattern_count() ? patterns[i]->summary : NULL;
}

static zm_status add_names(const char *const *names, size_t count, zmi_patterns *set) {
  for (size_t n = 0; n < count; n++) {
    size_t i = 0;
    while (patterns[i] && (!names[n] || strcmp(patterns[i]->name, names[n]) != 0)) i++;
    if (patterns[i]) {
      *set |= (zmi_patterns)1 << i;
      continue;
    }
    zmi_text known = {0};
    for (size_t k = 0; patterns[k]; k++) zmi_text_add(&known, "%s%s", k ? ", " : "", patterns[k]->name);
    zm_status status =
        zmi_fail(ZM_ERROR_ARGUMENT, "there is no pattern \"%.60s\" (known: %s)", names[n] ? names[n] : "", zmi_text_str(&known));
    zmi_text_release(&known);
    return status;
  }
  return ZM_OK;
}

zm_status zmi_patterns_choose(const zm_patch_options *options, zmi_patterns *set) {
  zmi_patterns chosen = 0, excluded = 0;
  zm_status status = ZM_OK;
  if (options && options->patterns)
    status = add_names(options->patterns, options->count, &chosen);
  else
    for (size_t i = 0; patterns[i]; i++) chosen |= (zmi_patterns)1 << i;
  if (status == ZM_OK && options && options->exclude) status = add_names(options->exclude, options->exclude_count, &excluded);
  if (status == ZM_OK) *set = chosen & ~excluded;
  return status;
}

zm_status zmi_patterns_apply(zmi_patterns set, zmi_graph *graph, zm_patch_report *report) {
  for (size_t i = 0; patterns[i]; i++) {
    if (!(set >> i & 1)) continue;
    zm_status status = zmi_graph_refresh(graph);
    if (status == ZM_OK) status = patterns[i]->rewrite(graph, report);
    if (status != ZM_OK) return zmi_fail_within("pattern %s", patterns[i]->name);
  }
  return ZM_OK;
}

// ---- reports ----

struct zm_patch_report {
  zm_patch_entry *entries; // strings owned
  size_t count, capacity;
};

zm_patch_report *zmi_patch_report_new(void) {
  return zmi_calloc(1, sizeof(zm_patch_report));
}

static char *copy(const char *s) {
  return zmi_strdup(s ? s : "");
}

static void release(const zm_patch_entry *e) {
  zmi_free((char *)(uintptr_t)e->pattern);
  zmi_free((char *)(uintptr_t)e->place);
  zmi_free((char *)(uintptr_t)e->reason);
}

zm_status zmi_patch_report_add(zm_patch_report *r, const zm_patch_entry *entry) {
  if (!r) return ZM_OK;
  if (!ZMI_GROW(r->entries, r->capacity, r->count + 1)) return ZM_ERROR_MEMORY;
  zm_patch_entry e = *entry;
  e.pattern = copy(entry->pattern);
  e.place = copy(entry->place);
  e.reason = copy(entry->reason);
  if (!e.pattern || !e.place || !e.reason) {
    release(&e);
    return ZM_ERROR_MEMORY;
  }
  r->entries[r->count++] = e;
  return ZM_OK;
}

size_t zm_patch_report_size(const zm_patch_report *r) {
  return r ? r->count : 0;
}

const zm_patch_entry *zm_patch_report_entry(const zm_patch_report *r, size_t i) {
  return r && i < r->count ? &r->entries[i] : NULL;
}

void zm_patch_report_free(zm_patch_report *r) {
  if (!r) return;
  for (size_t i = 0; i < r->count; i++) release(&r->entries[i]);
  zmi_free(r->entries);
  zmi_free(r);
}
