// The profile of decoding: what each op reads and takes, and which op waits for which at the barriers.
#include "tools/tools.h"

#include <stdlib.h>
#include <string.h>

// ---- bytes ----

// The operand's name, which op->operands lists: "x weight bias?". Without the mark behind it; false if there is none.
static bool operand_name(const zmi_op *op, int operand, char out[64]) {
  const char *at = op->operands;
  for (int i = 0; i < operand && at; i++) {
    at = strchr(at, ' ');
    if (at) at++;
  }
  const size_t n = at ? strcspn(at, " ?*") : 0;
  if (n == 0 || n >= 64) return false;
  memcpy(out, at, n);
  out[n] = 0;
  return true;
}

static int find_operand(const zmi_op *op, const char *wanted) {
  char name[64];
  for (int i = 0; operand_name(op, i, name); i++) {
    if (strcmp(name, wanted) == 0) return i;
  }
  return -1;
}

// An integer attribute; 0 if the op has none of that name.
static int64_t attribute(const zmi_instr *in, const char *name) {
  int64_t value = 0;
  for (const zmi_field *f = in->op->fields; f && f->name; f++) {
    if (f->kind == ZMI_FIELD_INT && strcmp(f->name, name) == 0) memcpy(&value, in->attrs.bytes + f->offset, sizeof value);
  }
  return value;
}

// Experts that one row chooses.
static int64_t chosen_experts(const zmi_tape *t, const zmi_instr *in) {
  const int operand = find_operand(in->op, "experts");
  return operand >= 0 && operand < in->nin && in->in[operand] >= 0 ? t->slots[in->in[operand]].type.shape[1] : attribute(in, "top_k");
}

static uint64_t weight_bytes(const zmi_tape *t, const zmi_instr *in, const char *name, uint64_t bytes, const zmi_step_rows *step) {
  char field[80];
  if (strcmp(name, "inv_freq") == 0) return 0; // made of the configuration
  if (strcmp(name, "table") == 0) return bytes / (uint64_t)ZMI_MAX(attribute(in, "n"), 1) * (uint64_t)step->rows;
  snprintf(field, sizeof field, "%s%sexperts", strcmp(name, "weight") == 0 ? "" : name, strcmp(name, "weight") == 0 ? "" : "_");
  const int64_t experts = attribute(in, field);
  const int64_t chosen = step->chosen > 0 ? step->chosen : chosen_experts(t, in);
  return experts > 1 ? bytes / (uint64_t)experts * (uint64_t)ZMI_MIN(chosen, experts) : bytes;
}

uint64_t zmi_instr_bytes(const zmi_tape *t, const zmi_instr *in, const zmi_state_set *states, const zmi_step_rows *step) {
  const bool attends = find_operand(in->op, "q") >= 0 && find_operand(in->op, "keys") >= 0;
  const uint64_t positions = (uint64_t)states->sequences * (uint64_t)states->context;
  uint64_t sum = 0;
  for (int i = 0; i < in->nin; i++) {
    char name[64] = "";
    if (in->in[i] < 0) continue;
    const zmi_slot *s = &t->slots[in->in[i]];
    if (s->kind == ZMI_SLOT_VIEW) s = &t->slots[s->base];
    operand_name(in->op, i, name);
    if (s->kind == ZMI_SLOT_WEIGHT) sum += weight_bytes(t, in, name, s->bytes, step);
    if (s->kind == ZMI_SLOT_STATE && attends && positions > 0) sum += s->bytes / positions * (uint64_t)step->depth * (uint64_t)step->rows;
  }
  return sum;
}

// ---- steps of several rows: experts that several of them choose are read once ----

static int by_number(const void *x, const void *y) {
  const int32_t a = *(const int32_t *)x, b = *(const int32_t *)y;
  return (a > b) - (a < b);
}

void zmi_step_bytes_add(void *user, const zmi_tape *t, size_t index) {
  zmi_step_bytes *sum = user;
  const zmi_instr *in = &t->instrs[index];
  sum->bytes += zmi_instr_bytes(t, in, sum->states, &sum->step);
  if (strcmp(in->op->name, "route") != 0) return;
  const zmi_slot *chosen = &t->slots[in->out[0]];
  const size_t n = (size_t)(chosen->type.shape[0] * chosen->type.shape[1]);
  int32_t *sorted = zmi_malloc(n * sizeof *sorted);
  if (!sorted) {
    sum->failed = true;
    return;
  }
  memcpy(sorted, chosen->data, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, by_number);
  sum->step.chosen = 1;
  for (size_t i = 1; i < n; i++) sum->step.chosen += sorted[i] != sorted[i - 1];
  sum->chosen += (uint64_t)sum->step.chosen;
  sum->routers++;
  zmi_free(sorted);
}

// ---- sums by op, and by pair of ops ----

static zmi_bench_op *op_row(zmi_bench *out, const char *name) {
  size_t i = 0;
  while (i < out->op_count && strcmp(out->ops[i].name, name) != 0) i++;
  if (i == out->op_count) out->ops[out->op_count++] = (zmi_bench_op){.name = name};
  return &out->ops[i];
}

static zmi_bench_wait *wait_row(zmi_bench *out, const char *op, const char *awaited) {
  size_t i = 0;
  while (i < out->wait_count && (strcmp(out->waits[i].op, op) != 0 || strcmp(out->waits[i].awaited, awaited) != 0)) i++;
  if (i == out->wait_count) out->waits[out->wait_count++] = (zmi_bench_wait){.op = op, .awaited = awaited};
  return &out->waits[i];
}

static void add_kind(zmi_bench *out, const char *op, const zmi_step_time *s, double plays) {
  size_t i = 0;
  while (i < out->kind_count &&
         (strcmp(out->kinds[i].op, op) != 0 || strcmp(out->kinds[i].kind, s->kind) != 0 || out->kinds[i].tiles != s->tiles))
    i++;
  if (i == out->kind_count) out->kinds[out->kind_count++] = (zmi_bench_kind){.op = op, .kind = s->kind, .tiles = s->tiles};
  zmi_bench_kind *row = &out->kinds[i];
  row->count++;
  row->worked += s->worked / plays;
  row->waited += s->waited / plays;
  row->idle += s->idle / plays;
}

static int by_kind_time(const void *x, const void *y) {
  const zmi_bench_kind *a = x, *b = y;
  const double s = a->worked + a->waited, t = b->worked + b->waited;
  return (s < t) - (s > t);
}

static int by_time(const void *x, const void *y) {
  const zmi_bench_op *a = x, *b = y;
  const double s = a->worked + a->waited, t = b->worked + b->waited;
  return (s < t) - (s > t);
}

static int by_wait(const void *x, const void *y) {
  const zmi_bench_wait *a = x, *b = y;
  return (a->waited < b->waited) - (a->waited > b->waited);
}

static const char *op_name(const zmi_tape *t, int64_t instr) {
  return instr < 0 ? "(start)" : (size_t)instr < t->instr_count ? t->instrs[instr].op->name : "(end)";
}

zm_status zmi_bench_add_profile(zmi_bench *out, const zmi_tape *t, const zmi_profile *p, const zmi_state_set *states) {
  out->ops = zmi_calloc(t->instr_count + 1, sizeof *out->ops);
  out->waits = zmi_calloc(p->count + 1, sizeof *out->waits);
  out->kinds = zmi_calloc(p->count + 1, sizeof *out->kinds);
  if (!out->ops || !out->waits || !out->kinds) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < t->instr_count; i++) {
    zmi_bench_op *row = op_row(out, t->instrs[i].op->name);
    row->calls++;
    row->bytes += zmi_instr_bytes(t, &t->instrs[i], states, &(zmi_step_rows){.rows = 1, .depth = out->depth});
  }
  for (size_t i = 0; i < p->count; i++) {
    const zmi_step_time *s = &p->steps[i];
    const char *name = op_name(t, (int64_t)s->instr);
    zmi_bench_op *row = op_row(out, name);
    row->worked += s->worked / (double)p->plays;
    row->waited += s->waited / (double)p->plays;
    row->barriers += s->waits_for >= 0;
    if (s->kind) add_kind(out, name, s, (double)p->plays);
    if (s->waits_for < 0 && i > 0) continue;
    zmi_bench_wait *wait = wait_row(out, name, op_name(t, s->waits_for));
    wait->count++;
    wait->waited += s->waited / (double)p->plays;
    wait->idle += s->idle / (double)p->plays;
  }
  qsort(out->ops, out->op_count, sizeof *out->ops, by_time);
  qsort(out->kinds, out->kind_count, sizeof *out->kinds, by_kind_time);
  qsort(out->waits, out->wait_count, sizeof *out->waits, by_wait);
  return ZM_OK;
}

double zmi_bench_profile_seconds(const zmi_bench *b) {
  double sum = 0;
  for (size_t i = 0; i < b->op_count; i++) sum += b->ops[i].worked + b->ops[i].waited;
  return sum;
}

// ---- JSON ----

static json_t *op_json(const zmi_bench *b, const zmi_bench_op *op, double total) {
  const double rate = op->worked > 0 ? (double)op->bytes / op->worked / 1e9 : 0;
  return json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I}", "op", op->name, "calls", (json_int_t)op->calls, "bytes",
                   (json_int_t)op->bytes, "seconds", op->worked, "waited_seconds", op->waited, "share",
                   total > 0 ? (op->worked + op->waited) / total : 0.0, "gb_s", rate, "share_of_bandwidth",
                   b->bandwidth > 0 ? rate / b->bandwidth : 0.0, "barriers", (json_int_t)op->barriers);
}

void zmi_bench_profile_json(const zmi_bench *b, json_t *to) {
  const double total = zmi_bench_profile_seconds(b);
  json_t *ops = json_array(), *waits = json_array();
  for (size_t i = 0; i < b->op_count; i++) json_array_append_new(ops, op_json(b, &b->ops[i], total));
  for (size_t i = 0; i < b->wait_count; i++) {
    const zmi_bench_wait *w = &b->waits[i];
    json_array_append_new(waits, json_pack("{s:s, s:s, s:I, s:f, s:f}", "op", w->op, "waits_for", w->awaited, "barriers",
                                           (json_int_t)w->count, "waited_seconds", w->waited, "idle_seconds", w->idle));
  }
  json_object_set_new(to, "profile", ops);
  json_object_set_new(to, "waits", waits);
  if (!b->kind_count) return;
  json_t *kinds = json_array();
  for (size_t i = 0; i < b->kind_count; i++) {
    const zmi_bench_kind *k = &b->kinds[i];
    json_array_append_new(kinds,
                          json_pack("{s:s, s:s, s:i, s:I, s:f, s:f, s:f}", "op", k->op, "kind", k->kind, "tiles", k->tiles, "count",
                                    (json_int_t)k->count, "seconds", k->worked, "waited_seconds", k->waited, "idle_seconds", k->idle));
  }
  json_object_set_new(to, "instructions", kinds);
}
