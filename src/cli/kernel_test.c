// zmlx kernel test: what the rows of the catalog compute on this machine, against what they are to compute. Each row is called with the
// operands of its sample, in each float dtype, in two ways that share as little as can be: interpreted, by the scalar tier, on one thread;
// and compiled, by the best tier, on several threads (of the whole catalog in float32 alone, because a compiler takes its time; a kernel
// or a group by name in each dtype). What was to be compiled and was not has failed, except where the machine has no compiler at all:
// there only the interpreter is tested, and the last line says so. Both must give the bits whose digests are stored in kernel_results.c:
// those were made where the tests of the catalog had compared every row with NumPy and MLX.
#include "cli/kernel.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORKERS = 3, ELEMENTS = 2000, ELEMENTS_IN_C = 8000 }; // rows in C are cut into tiles: enough for several of them

static const zm_dtype dtypes[CLI_KERNEL_DTYPES] = {ZM_F32, ZM_F16, ZM_BF16};

typedef struct tested {
  const zmi_entry *e;
  bool passed;
  _Atomic bool done;
  uint64_t digest[CLI_KERNEL_DTYPES];
  char why[400];
} tested;

typedef struct test {
  tested *rows;
  size_t count;
  bool wanted[CLI_KERNEL_DTYPES], compile[CLI_KERNEL_DTYPES];
  zmi_pool *one, *several;
  const zmi_kernels *best;
  _Atomic size_t next;
  size_t printed; // of worker 0 alone
  bool json, no_compiler;
  zmi_kernel_cache cache; // with the compiler, or why there is none
} test;

// ---- digests ----

static uint64_t add_bytes(uint64_t h, const void *data, size_t size) { // FNV-1a
  const uint8_t *p = data;
  for (size_t i = 0; i < size; i++) h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}

// Which NaN a result is, is not part of the promise (docs/numerics.md): all become one.
static uint64_t add_floats(uint64_t h, const void *data, size_t count, zm_dtype dtype) {
  const bool wide = dtype == ZM_F32;
  const uint32_t infinity = wide ? 0x7f800000u : dtype == ZM_F16 ? 0x7c00u : 0x7f80u, all = wide ? 0x7fffffffu : 0x7fffu;
  for (size_t i = 0; i < count; i++) {
    uint32_t u = wide ? ((const uint32_t *)data)[i] : ((const uint16_t *)data)[i];
    if ((u & all) > infinity) u = all;
    h = add_bytes(h, &u, wide ? 4 : 2); // little endian
  }
  return h;
}

static uint64_t add_array(uint64_t h, zmi_program *p, const char *slot, const zm_array *a) {
  const zm_dtype dtype = zm_array_dtype(a);
  const int64_t count = zm_array_size(a);
  const void *data = zmi_program_slot(p, slot);
  const char *name = zm_dtype_name(dtype);
  h = add_bytes(h, name, strlen(name));
  for (int d = 0; d < zm_array_rank(a); d++) {
    const int64_t dim = zm_array_dim(a, d);
    h = add_bytes(h, &dim, sizeof dim);
  }
  if (dtype == ZM_F32 || dtype == ZM_F16 || dtype == ZM_BF16) return add_floats(h, data, (size_t)count, dtype);
  return add_bytes(h, data, (size_t)count * zm_dtype_size(dtype));
}

static zm_status digest_of(const zmi_entry *e, zm_dtype dtype, const zmi_kernels *kernels, zmi_pool *pool, uint64_t *digest, char *why) {
  static const char *const names[ZMI_CATALOG_OUT] = {"0", "1", "2", "3", "4", "5", "6", "7"};
  cli_kernel_call c;
  zmi_program *p = NULL;
  zm_scope *scope = zm_scope_open();
  zm_status status = scope ? cli_kernel_prepare(&c, e, dtype, e->definition ? ELEMENTS : ELEMENTS_IN_C) : zm_last_status();
  if (status == ZM_OK) status = zmi_entry_call(e, c.in, c.nin, c.params, c.out);
  if (status == ZM_OK) {
    p = zmi_compile(c.out, names, (size_t)c.nout, &(zmi_compile_options){.kernels = kernels});
    if (!p) status = zm_last_status();
  }
  if (status == ZM_OK) {
    zmi_program_play(p, pool);
    if (why) cli_kernel_not_compiled(zmi_program_tape(p), why);
    *digest = 0xcbf29ce484222325u;
    for (int o = 0; o < c.nout; o++) *digest = add_array(*digest, p, names[o], c.out[o]);
  }
  zmi_program_free(p);
  zm_scope_close(scope);
  return status;
}

// Why a kernel of a tape that was played is interpreted; "" if each of them was compiled, or if there is none. A kernel's instruction
// names its instance by the key among its attributes.
void cli_kernel_not_compiled(const zmi_tape *t, char why[CLI_KERNEL_WHY]) {
  static const char before[] = "interpreted: ";
  why[0] = 0;
  for (size_t i = 0; i < t->instr_count && !why[0]; i++) {
    const zmi_instr *n = &t->instrs[i];
    const zmi_field *f = n->op->fields;
    uint64_t key[2];
    if (!f || !f->name || strcmp(f->name, "key0") != 0) continue;
    memcpy(key, n->attrs.bytes + f->offset, sizeof key);
    zmi_instance *x = zmi_instance_find(key);
    const char *note = x ? zmi_instance_note(x) : "";
    if (strncmp(note, before, strlen(before)) == 0) snprintf(why, CLI_KERNEL_WHY, "%.330s", note + strlen(before));
    zmi_instance_release(x);
  }
}

static uint64_t stored(const zmi_entry *e, int d) {
  for (const cli_kernel_result *r = cli_kernel_results; r->name; r++)
    if (strcmp(r->name, e->name) == 0) return r->digest[d];
  return 0;
}

// ---- the two ways ----

static void interpreted(test *t, tested *r) {
  for (int d = 0; d < CLI_KERNEL_DTYPES; d++) {
    if (!t->wanted[d]) continue;
    const uint64_t known = stored(r->e, d);
    const char *dtype = zm_dtype_name(dtypes[d]);
    const bool computed = digest_of(r->e, dtypes[d], zmi_tier(0), t->one, &r->digest[d], NULL) == ZM_OK;
    if (r->why[0]) continue; // the first reason is kept
    if (!computed)
      snprintf(r->why, sizeof r->why, "%s: %.350s", dtype, zm_last_error());
    else if (!known)
      snprintf(r->why, sizeof r->why, "%s: there is no stored result to compare with", dtype);
    else if (known != r->digest[d])
      snprintf(r->why, sizeof r->why, "%s: interpreted, on one thread, it gives other bits than the stored result", dtype);
  }
  r->passed = !r->why[0];
}

static void compiled(test *t, tested *r) {
  for (int d = 0; d < CLI_KERNEL_DTYPES && r->passed && !cli_interrupted(); d++) {
    uint64_t digest = 0;
    char why[CLI_KERNEL_WHY] = "";
    if (!t->compile[d]) continue;
    const char *dtype = zm_dtype_name(dtypes[d]);
    r->passed = false;
    if (digest_of(r->e, dtypes[d], t->best, t->several, &digest, why) != ZM_OK)
      snprintf(r->why, sizeof r->why, "%s: %.350s", dtype, zm_last_error());
    else if (digest != r->digest[d])
      snprintf(r->why, sizeof r->why, "%s: compiled for %s, on %d threads, it gives other bits than interpreted", dtype, t->best->name,
               zmi_pool_workers(t->several));
    else if (why[0] && !t->no_compiler)
      snprintf(r->why, sizeof r->why, "%s: not compiled: %s", dtype, why);
    else
      r->passed = true;
  }
}

static void print_done(test *t, bool last) {
  for (; t->printed < t->count && atomic_load(&t->rows[t->printed].done); t->printed++) {
    const tested *r = &t->rows[t->printed];
    if (t->json) continue;
    cli_progress_end();
    cli_print("%s %s%s%s\n", r->passed ? "ok    " : "FAILED", r->e->name, r->passed ? "" : ": ", r->why);
    cli_flush();
  }
  if (!last) cli_progress(NULL, "testing kernels", t->printed, t->count);
}

// Most of the time goes to the compiler: each worker has one of its own.
static void work(void *user, int worker, int workers) {
  (void)workers;
  test *t = user;
  size_t i;
  while ((i = atomic_fetch_add(&t->next, 1)) < t->count && !cli_interrupted()) {
    compiled(t, &t->rows[i]);
    atomic_store(&t->rows[i].done, true);
    if (worker == 0) print_done(t, false);
  }
}

// An instance that was compiled stays so: everything is interpreted first. The environment is changed while no worker runs.
static void run_both(test *t, zmi_pool *compilers) {
  zmi_instance_forget();
  setenv("ZMLX_KERNELS", "interpret", 1);
  for (size_t i = 0; i < t->count && cli_progress(NULL, "interpreting kernels", i, t->count); i++) interpreted(t, &t->rows[i]);
  setenv("ZMLX_KERNELS", "compile", 1);
  if (!cli_interrupted()) zmi_pool_run(compilers, work, t);
  print_done(t, true);
  cli_progress_end();
}

// ---- the action ----

static bool collect(test *t, const char *name) {
  const zmi_catalog_group *group;
  const zmi_entry *e;
  cli_kernel_choice only;
  if (!cli_kernel_choose(name, &only)) return false;
  t->rows = zmi_calloc(zmi_catalog_count(), sizeof *t->rows);
  for (size_t i = 0; t->rows && (e = zmi_catalog_at(i, &group)) != NULL; i++)
    if (cli_kernel_is_chosen(&only, e, group)) t->rows[t->count++].e = e;
  return true;
}

static json_t *row_json(const test *t, const tested *r) {
  json_t *digests = json_object();
  for (int d = 0; d < CLI_KERNEL_DTYPES; d++) {
    char text[20];
    if (!t->wanted[d]) continue;
    snprintf(text, sizeof text, "%016llx", (unsigned long long)r->digest[d]);
    json_object_set_new(digests, zm_dtype_name(dtypes[d]), json_string(text));
  }
  return json_pack("{s:s, s:b, s:s?, s:o}", "name", r->e->name, "passed", r->passed, "why", r->passed ? NULL : r->why, "digests", digests);
}

static int report(const test *t) {
  size_t good = 0, bad = 0;
  json_t *list = json_array();
  for (size_t i = 0; i < t->count; i++) {
    const tested *r = &t->rows[i];
    if (!atomic_load(&r->done)) continue; // interrupted
    good += r->passed, bad += !r->passed;
    if (t->json) json_array_append_new(list, row_json(t, r));
  }
  if (t->json)
    cli_print_json(json_pack("{s:I, s:I, s:s?, s:O}", "passed", (json_int_t)good, "failed", (json_int_t)bad, "skipped",
                             t->no_compiler ? t->cache.compiler : NULL, "kernels", list));
  else if (t->no_compiler)
    cli_print("%zu passed, %zu failed; compiled kernels were skipped: %s\n", good, bad, t->cache.compiler);
  else
    cli_print("%zu passed, %zu failed\n", good, bad);
  json_decref(list);
  return cli_interrupted() ? cli_interrupt_status() : bad ? CLI_FAILURE : CLI_OK;
}

int cli_kernel_test(const cli_args *args, const char *name) {
  test t = {.json = cli_flag(args, "json")};
  const zm_dtype only = cli_given(args, "dtype") ? zm_dtype_from_name(cli_text(args, "dtype")) : ZM_DTYPE_DEFAULT;
  for (int d = 0; d < CLI_KERNEL_DTYPES; d++) {
    t.wanted[d] = only == ZM_DTYPE_DEFAULT || only == dtypes[d];
    t.compile[d] = t.wanted[d] && (name || only != ZM_DTYPE_DEFAULT || dtypes[d] == ZM_F32);
  }
  if (!collect(&t, name)) return CLI_USAGE;
  zmi_kernel_cache_look(&t.cache);
  t.no_compiler = !t.cache.compiler_found && !zmi_env("ZMLX_CC"); // whoever names one wants it
  zmi_pool *compilers = zmi_pool_new(0);
  t.one = zmi_pool_new(1), t.several = zmi_pool_new(WORKERS);
  t.best = zmi_kernels_find(NULL);
  int status = CLI_FAILURE;
  if (t.rows && compilers && t.one && t.several && t.best) {
    run_both(&t, compilers);
    status = report(&t);
  } else {
    status = cli_failed();
  }
  zmi_pool_free(compilers);
  zmi_pool_free(t.one);
  zmi_pool_free(t.several);
  zmi_free(t.rows);
  return status;
}
