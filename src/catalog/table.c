// The table of the catalog and the page made of it.
#include "catalog/catalog.h"

#include <stdlib.h>
#include <string.h>

extern const zmi_catalog_group zmi_catalog_activations, zmi_catalog_softmax, zmi_catalog_norms, zmi_catalog_transformer,
    zmi_catalog_attention, zmi_catalog_rope, zmi_catalog_reductions, zmi_catalog_fused, zmi_catalog_linear, zmi_catalog_loss,
    zmi_catalog_quant, zmi_catalog_bits, zmi_catalog_image, zmi_catalog_indexing, zmi_catalog_scan, zmi_catalog_optimizers,
    zmi_catalog_vlsp, zmi_catalog_skv, zmi_catalog_moe, zmi_catalog_fused_moe, zmi_catalog_discovered, zmi_catalog_ttt;

const zmi_catalog_group *const zmi_catalog_groups[] = {
    &zmi_catalog_activations,
    &zmi_catalog_softmax,
    &zmi_catalog_norms,
    &zmi_catalog_transformer,
    &zmi_catalog_attention,
    &zmi_catalog_rope,
    &zmi_catalog_reductions,
    &zmi_catalog_fused,
    &zmi_catalog_linear,
    &zmi_catalog_loss,
    &zmi_catalog_quant,
    &zmi_catalog_bits,
    &zmi_catalog_image,
    &zmi_catalog_indexing,
    &zmi_catalog_scan,
    &zmi_catalog_optimizers,
    &zmi_catalog_vlsp,
    &zmi_catalog_skv,
    &zmi_catalog_moe,
    &zmi_catalog_fused_moe,
    &zmi_catalog_discovered,
    &zmi_catalog_ttt,
    NULL,
};

size_t zmi_catalog_count(void) {
  size_t count = 0;
  for (size_t g = 0; zmi_catalog_groups[g]; g++) count += zmi_catalog_groups[g]->count;
  return count;
}

const zmi_entry *zmi_catalog_at(size_t i, const zmi_catalog_group **group) {
  for (size_t g = 0; zmi_catalog_groups[g]; g++) {
    if (group) *group = zmi_catalog_groups[g];
    if (i < zmi_catalog_groups[g]->count) return &zmi_catalog_groups[g]->entries[i];
    i -= zmi_catalog_groups[g]->count;
  }
  if (group) *group = NULL;
  return NULL;
}

// Other names of rows: those that ZMLX has for them.
static const struct { const char *name, *row; } other_names[] = {{"silu_mul_grad", "silu_mul"}};

// Rows and what models' tapes are made of.
static const struct {
  const char *row, *tape;
} tapes[] = {
    {"add", "add"},
    {"mul", "multiply"},
    {"silu", "silu"},
    {"swiglu", "silu multiply"},
    {"swiglu2", "silu multiply"},
    {"rmsnorm", "rms_norm"},
    {"rms_norm_no_weight", "rms_norm"},
    {"glm_rmsnorm", "rms_norm"},
    {"rmsnorm_residual", "add rms_norm"},
    {"apply_rope", "rope"},
    {"apply_rope_interleaved", "rope"},
    {"apply_gqa_rope", "rope"},
    {"rope_and_cache_update", "rope write_keys write_values"},
    {"paged_attention", "attention"},
    {"topk_gating_softmax", "route"},
    {"deepseek_router_topk_sigmoid", "route"},
    {"moe_combine", "combine"},
    {"gather_qmm_swiglu", "gather_linear silu multiply"},
    {"fused_swiglu_gather_qmv", "linear gather_linear silu multiply"},
    {"gather_qmm_combine_quantized", "gather_linear combine"},
};

const char *zmi_entry_tape(const zmi_entry *e) {
  for (size_t i = 0; i < ZMI_COUNT(tapes); i++) {
    if (strcmp(tapes[i].row, e->name) == 0) return tapes[i].tape;
  }
  return NULL;
}

const char *zmi_entry_function(const zmi_entry *e) {
  return e->function ? e->function : e->name;
}

const char *zmi_entry_form(const zmi_entry *e) {
  static const char *const forms[] = {"elements", "rows", "tiles", "raw"};
  return e->definition ? forms[e->definition->form] : "in C";
}

const zmi_entry *zmi_catalog_find(const char *name) {
  const zmi_entry *e;
  const bool function = strncmp(name, "zm_", 3) == 0;
  if (function) name += 3;
  for (size_t i = 0; i < ZMI_COUNT(other_names); i++) {
    if (strcmp(other_names[i].name, name) == 0) name = other_names[i].row;
  }
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    if (strcmp(e->name, name) == 0 || (function && strcmp(zmi_entry_function(e), name) == 0)) return e;
  }
  for (size_t i = 0; !function && (e = zmi_catalog_at(i, NULL)); i++) { // the page's names without their prefix
    if (strcmp(zmi_entry_function(e), name) == 0) return e;
  }
  return NULL;
}

int zmi_entry_described(const zmi_entry *e, zmi_parameter rows[ZMI_CATALOG_PARAMS]) {
  static const char integer[] = " integer ";
  int count = 0;
  for (const char *s = e->parameters; s && *s && count < ZMI_CATALOG_PARAMS; count++) {
    zmi_parameter *p = &rows[count];
    *p = (zmi_parameter){.usual = 0};
    const size_t size = strcspn(s, "=");
    memcpy(p->name, s, ZMI_MIN(size, sizeof p->name - 1));
    s += size;
    char *end = (char *)(uintptr_t)s;
    if (*s == '=') p->usual = strtod(s + 1, &end);
    p->integer = strncmp(end, integer, sizeof integer - 1) == 0;
    if (p->integer) {
      p->least = strtoll(end + sizeof integer - 1, &end, 10);
      end += strspn(end, ".");
      p->most = *end && *end != ',' ? strtoll(end, &end, 10) : INT32_MAX;
    }
    s = end + strspn(end, ", ");
  }
  return count;
}

int zmi_entry_parameters(const zmi_entry *e, double *values) {
  zmi_parameter rows[ZMI_CATALOG_PARAMS];
  const int count = zmi_entry_described(e, rows);
  for (int i = 0; i < count && values; i++) values[i] = rows[i].usual;
  return count;
}

// The bounds of integers are far below 2^53: what lies between them converts and compares exactly.
static zm_status read_given(const zmi_entry *e, const zmi_parameter *p, double value, zmi_given *given) {
  *given = (zmi_given){.real = value};
  if (!p->integer) return ZM_OK;
  if (value >= (double)p->least && value <= (double)p->most) given->whole = (int64_t)value;
  if (value >= (double)p->least && value <= (double)p->most && (double)given->whole == value) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT, "%s: %s: expected an integer from %lld to %lld, found %.12g", e->name, p->name, (long long)p->least,
                  (long long)p->most, value);
}

zm_status zmi_entry_call(const zmi_entry *e, zm_array *const *in, int nin, const double *params, zm_array **out) {
  zmi_parameter rows[ZMI_CATALOG_PARAMS];
  zmi_given given[ZMI_CATALOG_PARAMS];
  double values[ZMI_CATALOG_PARAMS];
  const int count = zmi_entry_described(e, rows);
  for (int i = 0; i < nin; i++) {
    if (!in[i]) return zm_last_status() != ZM_OK ? zm_last_status() : zmi_fail(ZM_ERROR_ARGUMENT, "%s: operand %d is NULL", e->name, i + 1);
  }
  for (int i = 0; i < count; i++) {
    values[i] = params ? params[i] : rows[i].usual;
    if (read_given(e, &rows[i], values[i], &given[i]) != ZM_OK) return zm_last_status();
  }
  if (e->call) return e->call(in, nin, given, out);
  return zmi_definition_apply(e->definition, in, nin, values, count, out, e->outputs ? e->outputs : 1);
}

// ---- the page ----

// Text in a cell of a table: a bar would end it.
static void cell(zmi_text *out, const char *s) {
  for (; *s; s++) {
    if (*s == '|')
      zmi_text_add(out, "\\|");
    else
      zmi_text_add_bytes(out, s, 1);
  }
}

static void row(zmi_text *out, const zmi_entry *e) {
  zmi_text_add(out, "| `zm_%s`", zmi_entry_function(e));
  if (e->parameters) zmi_text_add(out, " (%s)", e->parameters);
  zmi_text_add(out, " | %s | ", zmi_entry_form(e));
  cell(out, e->formula);
  zmi_text_add(out, " | ");
  cell(out, e->shapes);
  zmi_text_add(out, " | ");
  cell(out, e->dtypes ? e->dtypes : "float16, bfloat16, float32");
  zmi_text_add(out, " | ");
  cell(out, e->gradient);
  zmi_text_add(out, " |\n");
}

zm_status zmi_catalog_page(zmi_text *out) {
  zmi_text_add(
      out,
      "# The catalog\n\n"
      "Ready kernels, declared in `include/zmlx/catalog.h`. This page is made from the table of the catalog (`make docs`).\n\n"
      "Floats are computed in float32 and rounded once to the dtype of the first float operand, unless a row says otherwise. Sums run in\n"
      "the lane order, functions and ties are those of `docs/numerics.md`. Names behind a function are its parameters with usual values;\n"
      "those of integers give the range (\"1..\": from 1 to 2147483647), and anything else is refused.\n"
      "\"Gradient\" lists the operands that have one. \"Form\" is the form of the kernel language that a kernel is written in (elements, "
      "rows,\n"
      "tiles; `docs/kernel-language.md`): `zmlx kernel show NAME` prints what its source becomes for each target. \"in C\" is made of "
      "operations\n"
      "in C and has no such source, for no target: it is code of the CPU, and the file of its group has it.\n\n"
      "Beside the kernels the catalog has a codec that packs caches of keys and values, KVTC: `include/zmlx/kvtc.h`, `docs/kvtc.md`.\n");
  for (size_t g = 0; zmi_catalog_groups[g]; g++) {
    const zmi_catalog_group *group = zmi_catalog_groups[g];
    zmi_text_add(out,
                 "\n## %s\n\n%s Source: `%s`.\n\n| function | form | formula | shapes | dtypes | gradient |\n|---|---|---|---|---|---|\n",
                 group->name, group->about, group->file);
    for (size_t i = 0; i < group->count; i++) row(out, &group->entries[i]);
  }
  return out->failed ? ZM_ERROR_MEMORY : ZM_OK;
}
