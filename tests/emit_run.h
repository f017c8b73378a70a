// Kernels emitted in all ways, compiled in one piece for each, run on the same operands and compared with the interpreter bit by bit. The
// file that includes this fills all.codes and all.names, calls compile_all(), and then compare() for each run it wants.
#ifndef ZMLX_TEST_EMIT_RUN_H
#define ZMLX_TEST_EMIT_RUN_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "kernel/cache.h"
#include "kernel/emit.h"
#include "nvrtc.h"
#include "temp.h"

#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/wait.h>

#include <cmocka.h>

enum { MOST_CASES = 1024, MOST = 3 * 5500, THREADS = 64, GROUPS = 3 };

typedef enum way { INTERPRETED, C_BEST, C_PLAIN, METAL, CUDA, WAYS } way;
static const char *const way_names[WAYS] = {"interpreter", "C", "C of the baseline", "Metal", "CUDA C"};

static struct {
  zmi_code *codes[MOST_CASES];
  const char *names[MOST_CASES];
  int count;
  void *handles[WAYS];
  char notes[WAYS][512];
  zmi_text sources[WAYS];
  temp_folder folder;
  const zmi_kernels *tiers[WAYS];
} all;

// What the file that includes this wants: bit w: way w is compiled; a flag more for the C compiler, with a blank before it.
static unsigned emit_ways = (1u << CUDA) - 1;
static const char *emit_flag = "";
static bool emit_many = false; // so many that compiling is to be quick: functions are no part of their callers, CUDA is for one card

// Takes it, unless one of the same content is there. The caller keeps his own.
static inline bool take(const zmi_code *c, const char *name) {
  for (int i = 0; i < all.count; i++)
    if (memcmp(all.codes[i]->key, c->key, sizeof c->key) == 0) return true;
  if (all.count == MOST_CASES || !(all.codes[all.count] = zmi_code_copy(c))) return false;
  all.names[all.count] = name ? name : all.codes[all.count]->name;
  all.count++;
  return true;
}

// ---- one source for all codes ----

static const char *const entries[] = {"zk_elements", "zk_rows", "zk_groups"};

static void add_thunk(const zmi_code *c, int id, bool metal, zmi_text *t) { // from arrays of addresses to the arguments of a kernel
  zmi_text_add(t, "struct job%d { const void *const *in; void *const *out; const void *call; };\n", id);
  zmi_text_add(t, "static void body%d(void *p, uint t, uint n, uint g, uint gs) {\n  const job%d *j = (const job%d *)p;\n  k%d(", id, id,
               id, id);
  for (int i = 0; i < c->nin; i++) zmi_text_add(t, "(const %s *)j->in[%d], ", zmi_emit_memory(c->in[i]), i);
  for (int i = 0; i < c->nout; i++) zmi_text_add(t, "(%s *)j->out[%d], ", zmi_emit_memory(c->out[i]), i);
  zmi_text_add(t, metal ? "*(const call%d *)j->call, t, n, g, gs);\n}\n" : "*(const call%d *)j->call);\n}\n", id);
  zmi_text_add(t, "extern \"C\" void m%d(const void *const *in, void *const *out, const void *call, uint n, uint gs) {\n", id);
  zmi_text_add(t, "  job%d j = {in, out, call};\n  shim_run(body%d, &j, n, gs);\n}\n", id, id);
}

static void write_all(zmi_target target, bool every, bool thunks, zmi_text *t) {
  if (emit_many && target == ZMI_TARGET_C) zmi_text_add(t, "#define always_inline unused\n");
  zmi_emit_head(target, t);
  for (int i = 0; i < all.count; i++) {
    const zmi_code *c = all.codes[i];
    if (target == ZMI_TARGET_METAL && c->nin + c->nout > 30) continue;
    if (!every && c->form == ZMI_FORM_ELEMENTS) continue;
    for (size_t k = 0; k < ZMI_COUNT(entries); k++) zmi_text_add(t, "#define %s k%d\n", entries[k], i);
    zmi_text_add(t, "#define zk_call call%d\n", i);
    assert_int_equal(zmi_emit(c, target, true, t), ZM_OK);
    for (size_t k = 0; k < ZMI_COUNT(entries); k++) zmi_text_add(t, "#undef %s\n", entries[k]);
    zmi_text_add(t, "#undef zk_call\n");
    if (thunks) add_thunk(c, i, target == ZMI_TARGET_METAL, t);
  }
  assert_false(t->failed);
}

// ---- compiling ----

static void *compile_threads(way w, char note[512]) { // as C++, with a shim
  char source[1024], object[1024];
  const char *name = w == METAL ? "metal" : "cuda";
  snprintf(source, sizeof source, "%.900s/%s.cpp", all.folder.path, name);
  snprintf(object, sizeof object, "%.900s/%s.so", all.folder.path, name);
  const char *cxx = getenv("CXX");
  assert_int_equal(temp_write(source, zmi_text_str(&all.sources[w]), all.sources[w].size), 0);
  char command[4096];
  snprintf(command, sizeof command,
           "command -v %s >/dev/null 2>&1 || exit 99; exec %s -std=c++17 -O1 -ffp-contract=off -fno-math-errno -fno-trapping-math -fPIC "
           "-shared -w -Itests/shim%s%s -o '%s' '%s' -lm",
           cxx && *cxx ? cxx : "c++", cxx && *cxx ? cxx : "c++", w == CUDA ? " -include cuda_kernels.h" : "", emit_flag, object, source);
  int status = system(command);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 99) {
    snprintf(note, 512, "skipped: no C++ compiler");
    return NULL;
  }
  snprintf(note, 512, "c++ failed");
  return status == 0 ? dlopen(object, RTLD_NOW | RTLD_LOCAL) : NULL;
}

static void *compile(void *arg) {
  const way w = (way)(intptr_t)arg;
  bool cached;
  if (w == METAL || w == CUDA)
    all.handles[w] = compile_threads(w, all.notes[w]);
  else {
    char tier[64];
    snprintf(tier, sizeof tier, "%s%s", all.tiers[w]->name, emit_flag);
    all.handles[w] = zmi_compile_c("all", zmi_text_str(&all.sources[w]), tier, false, all.notes[w], &cached);
  }
  return NULL;
}

// Writes and compiles what stands in `all`.
static int compile_all(void) {
  if (temp_make(&all.folder) != 0) return -1;
  setenv("ZMLX_CACHE_DIR", all.folder.path, 1);
  setenv("ZMLX_CC_SECONDS", "600", 1);
  all.tiers[INTERPRETED] = all.tiers[C_BEST] = all.tiers[METAL] = all.tiers[CUDA] = zmi_kernels_find(NULL);
  all.tiers[C_PLAIN] = zmi_tier(0);
  pthread_t threads[WAYS];
  for (int w = C_BEST; w < WAYS; w++)
    if (emit_ways >> w & 1) {
      const zmi_target target = w == METAL ? ZMI_TARGET_METAL : w == CUDA ? ZMI_TARGET_CUDA : ZMI_TARGET_C;
      write_all(target, true, w >= METAL, &all.sources[w]);
    }
  for (intptr_t w = C_BEST; w < WAYS; w++)
    if (emit_ways >> w & 1 && pthread_create(&threads[w], NULL, compile, (void *)w) != 0) return -1;
  for (int w = C_BEST; w < WAYS; w++)
    if (emit_ways >> w & 1) pthread_join(threads[w], NULL);
  return 0;
}

static int tear_down(void **state) {
  (void)state;
  for (int w = 0; w < WAYS; w++) {
    if (all.handles[w]) dlclose(all.handles[w]);
    zmi_text_release(&all.sources[w]);
  }
  for (int i = 0; i < all.count; i++) zmi_code_free(all.codes[i]);
  temp_remove(&all.folder);
  return 0;
}

// ---- running ----

typedef struct run {
  const zmi_code *c;
  int id;
  int64_t n, rows, d; // n elements, or rows of d
  const void *in[ZMI_CODE_MAX];
  void *out[ZMI_CODE_MAX];
  int step[ZMI_CODE_MAX];
  int64_t stride[ZMI_CODE_MAX];
  double params[8];
  zmi_type in_type[ZMI_CODE_MAX], out_type[ZMI_CODE_MAX];
} run;

static void *find(way w, const char *form, int id) {
  char name[32];
  snprintf(name, sizeof name, form, id);
  void *p = dlsym(all.handles[w], name);
  if (!p) fail_msg("%s lacks %s", way_names[w], name);
  return p;
}

// The struct zk_call of emitted kernels.
static void pack_call(const run *r, int64_t *call) {
  const int operands = ZMI_MAX(r->c->nin + r->c->nout, 1);
  int64_t *at = call;
  *at++ = r->n, *at++ = r->rows, *at++ = r->d;
  for (int k = 0; k < operands; k++) *at++ = zmi_type_count(k < r->c->nin ? &r->in_type[k] : &r->out_type[k - r->c->nin]);
  for (int k = 0; k < operands; k++) {
    const zmi_type *t = k < r->c->nin ? &r->in_type[k] : &r->out_type[k - r->c->nin];
    for (int i = 0; i < ZM_MAX_RANK; i++) *at++ = i < t->rank ? t->shape[i] : 1;
  }
  for (int k = 0; k < operands; k++) *at++ = k < r->c->nin ? r->stride[k] : 0;
  for (int k = 0; k < operands; k++) *at++ = k < r->c->nin ? r->step[k] : 0;
  for (int k = 0; k < ZMI_MAX(r->c->nparams, 1); k++) {
    struct {
      float f;
      int32_t i;
    } value = {(float)r->params[k], (int32_t)r->params[k]};
    memcpy(at++, &value, sizeof value);
  }
}

static void run_threads(way w, const run *r) {
  static int64_t call[ZMI_CODE_MAX * 2 * 12 + 16];
  pack_call(r, call);
  void *p = find(w, "m%d", r->id);
  void (*entry)(const void *const *, void *const *, const void *, unsigned, unsigned);
  memcpy(&entry, &p, sizeof entry);
  entry(r->in, r->out, call, r->c->form == ZMI_FORM_TILES ? THREADS : 32, GROUPS);
}

static void run_compiled(way w, const run *r) {
  void *p = find(w, "k%d", r->id);
  const int stream = (int)((r->id + r->n + r->d) % 2); // results go past the caches in one half of the calls
  if (r->c->form == ZMI_FORM_ELEMENTS) {
    void (*entry)(int64_t, const void *const *, const int *, const double *, void *const *, int);
    memcpy(&entry, &p, sizeof entry);
    entry(r->n, r->in, r->step, r->params, r->out, stream);
  } else if (r->c->form == ZMI_FORM_ROWS) {
    void (*entry)(int64_t, int64_t, const void *const *, const int64_t *, const int *, const double *, void *const *, int);
    memcpy(&entry, &p, sizeof entry);
    entry(r->rows, r->d, r->in, r->stride, r->step, r->params, r->out, stream);
  } else {
    static int64_t call[ZMI_CODE_MAX * 2 * 12 + 16];
    void (*entry)(int64_t, int64_t, int64_t, int64_t, const void *const *, void *const *, const int64_t *, const int64_t *, const double *);
    pack_call(r, call);
    memcpy(&entry, &p, sizeof entry);
    entry(0, 1, GROUPS, THREADS, r->in, r->out, call + 3 + r->c->nin + r->c->nout, call + 3, r->params);
    entry(1, GROUPS, GROUPS, THREADS, r->in, r->out, call + 3 + r->c->nin + r->c->nout, call + 3, r->params);
  }
}

static void run_one(way w, const run *r) {
  const zmi_kernels *k = all.tiers[w];
  const unsigned saved = zmi_float_rule_enter();
  const zmi_launch l = {GROUPS, THREADS, r->in, r->out, r->in_type, r->out_type, r->params};
  if (w == METAL || w == CUDA)
    run_threads(w, r);
  else if (w != INTERPRETED)
    run_compiled(w, r);
  else if (r->c->form == ZMI_FORM_ELEMENTS)
    zmi_interpret_elements(r->c, k, r->n, r->in, r->step, r->params, r->out);
  else if (r->c->form == ZMI_FORM_ROWS)
    zmi_interpret_rows(r->c, k, r->rows, r->d, r->in, r->stride, r->step, r->params, r->out);
  else
    zmi_interpret_groups(r->c, k, &l, 0, GROUPS);
  zmi_float_rule_leave(saved);
}

// ---- operands and comparison ----

static uint64_t next_random(uint64_t *s) {
  *s = *s * 6364136223846793005u + 1442695040888963407u;
  return *s >> 33;
}

static float special(uint64_t r) {
  static const float values[] = {0.0f, -0.0f, 1.0f,  -1.0f, 1e-40f, -1e-40f, 0x1p-126f, 0x1.fffffep127f,
                                 0.5f, 2.5f,  -3.5f, 1e10f, -1e10f, 89.0f};
  if (r % 17 == 0) return __builtin_inff();
  if (r % 19 == 0) return -__builtin_inff();
  if (r % 23 == 0) return __builtin_nanf("");
  return values[r % ZMI_COUNT(values)];
}

// Mostly ordinary numbers; `wild` ones among them, unless rows are summed (a NaN would hide the rest).
static void fill(void *data, zm_dtype d, int64_t n, uint64_t seed, bool wild) {
  for (int64_t i = 0; i < n; i++) {
    uint64_t r = next_random(&seed), kind = next_random(&seed);
    float v = (float)(int64_t)(r % 20001 - 10000) / (kind % 3 ? 1000.0f : 7.0f);
    if (wild && kind % 4 == 0) v = special(r);
    if (d == ZM_F32)
      ((float *)data)[i] = v;
    else if (d == ZM_BF16)
      ((uint16_t *)data)[i] = zmi_f32_to_bf16(v);
    else if (d == ZM_F16)
      ((uint16_t *)data)[i] = zmi_f32_to_f16(v);
    else if (d == ZM_BOOL)
      ((uint8_t *)data)[i] = r & 1;
    else {
      uint64_t x = kind % 3 == 0 ? r % 5 : kind % 5 == 0 ? (uint64_t)1 << (r % 64) : r * kind * 0x9e3779b97f4a7c15u;
      if (kind % 7 == 0) x = 0 - (r % 3);
      memcpy((char *)data + (size_t)i * zm_dtype_size(d), &x, zm_dtype_size(d));
    }
  }
}

static bool same(const void *a, const void *b, zm_dtype d, int64_t i) {
  const size_t size = zm_dtype_size(d);
  if (memcmp((const char *)a + (size_t)i * size, (const char *)b + (size_t)i * size, size) == 0) return true;
  if (d != ZM_F32) return false;
  float x = ((const float *)a)[i], y = ((const float *)b)[i];
  return x != x && y != y; // that it is a NaN is promised, not which
}

static int64_t out_count(const run *r, int o) {
  if (r->c->form == ZMI_FORM_ELEMENTS) return r->n;
  if (r->c->form == ZMI_FORM_ROWS) return r->c->per_row[o] ? r->rows : r->rows * r->d;
  return zmi_type_count(&r->out_type[o]);
}

static _Alignas(64) char in_memory[ZMI_CODE_MAX][MOST * 8], out_memory[WAYS][ZMI_CODE_MAX][MOST * 8];

static void compare_result(const run *r, way w, int o) {
  const char *a = out_memory[INTERPRETED][o], *b = out_memory[w][o];
  const size_t size = zm_dtype_size(r->c->out[o]);
  const int64_t count = out_count(r, o);
  for (int64_t i = 0; i < count; i++) {
    if (same(a, b, r->c->out[o], i)) continue;
    uint64_t x = 0, y = 0;
    memcpy(&x, a + (size_t)i * size, size);
    memcpy(&y, b + (size_t)i * size, size);
    fail_msg("%s (%s, n %d, rows %d of %d): result %d [%d]: interpreter %llx, %s %llx", all.names[r->id], zm_dtype_name(r->c->in[0]),
             (int)r->n, (int)r->rows, (int)r->d, o, (int)i, (unsigned long long)x, way_names[w], (unsigned long long)y);
  }
  const size_t used = (size_t)count * size; // nothing is written behind the results
  if (memcmp(a + used, b + used, sizeof out_memory[0][0] - used) != 0)
    fail_msg("%s: %s writes behind result %d", all.names[r->id], way_names[w], o);
}

static void compare(run *r) {
  for (int w = 0; w < WAYS; w++) {
    if (w != INTERPRETED && !all.handles[w]) continue;
    if (w == METAL && r->c->nin + r->c->nout > 30) continue;
    for (int o = 0; o < r->c->nout; o++) {
      r->out[o] = out_memory[w][o];
      memset(out_memory[w][o], r->c->form == ZMI_FORM_TILES ? 0 : 0xa5, sizeof out_memory[w][o]);
    }
    run_one((way)w, r);
    for (int o = 0; o < r->c->nout && w != INTERPRETED; o++) compare_result(r, (way)w, o);
  }
}

static run new_run(int id) {
  run r = {.c = all.codes[id], .id = id, .params = {3, 5}};
  for (int k = 0; k < r.c->nin; k++) {
    r.in[k] = in_memory[k];
    r.step[k] = 1;
  }
  return r;
}

// Every code of elements for each of these numbers of them, every other time with one element of the second operand for all.
static inline void compare_elements(const int64_t *sizes, size_t count) {
  for (int id = 0; id < all.count; id++) {
    if (all.codes[id]->form != ZMI_FORM_ELEMENTS) continue;
    run r = new_run(id);
    for (size_t s = 0; s < count; s++) {
      r.n = sizes[s];
      for (int k = 0; k < r.c->nin; k++) {
        fill(in_memory[k], r.c->in[k], r.n + 1, (uint64_t)(id * 100 + k), true);
        r.step[k] = s % 2 ? 1 : k != 1;
      }
      compare(&r);
    }
  }
}

// Every code of rows for each of these lengths, twice: ordinary numbers and one row of the second operand for all; special numbers and one
// element of it for each row, or one for all every other length, as of operands with one number a row.
static inline void compare_rows(const int64_t *widths, size_t count) {
  for (int id = 0; id < all.count; id++) {
    if (all.codes[id]->form != ZMI_FORM_ROWS) continue;
    run r = new_run(id);
    for (size_t s = 0; s < 2 * count; s++) {
      r.d = widths[s / 2];
      r.rows = r.d <= 64 ? 67 : 3; // short rows go side by side, 32 of them: two groups and a rest
      for (int k = 0; k < r.c->nin; k++) {
        const bool row = r.c->in_per_row[k], one = k == 1 && s % 2;
        fill(in_memory[k], r.c->in[k], r.rows * r.d + 3, (uint64_t)(id * 100 + k), s % 2);
        r.step[k] = !row && !one;
        r.stride[k] = row ? s % 4 < 2 : one ? s % 4 == 1 : k == 1 ? 0 : r.d;
      }
      compare(&r);
    }
  }
}

// ---- tests of all who include this ----

static inline void c_is_compiled(void **state) {
  (void)state;
  for (int w = C_BEST; w < WAYS; w++) {
    if (!(emit_ways >> w & 1)) continue;
    if (!all.handles[w] && strncmp(all.notes[w], "skipped", 7) == 0)
      print_message("# %s: %s\n", way_names[w], all.notes[w]);
    else if (!all.handles[w])
      fail_msg("%s: %s", way_names[w], all.notes[w]);
  }
}

// ---- CUDA ----

static void cuda_compiles(void **state) {
  (void)state;
  static const char *const cards[] = {"--gpu-architecture=sm_80", "--gpu-architecture=sm_90a", "--gpu-architecture=sm_100"};
  static const char one[] = "--gpu-architecture=compute_80";
  nvrtc n;
  if (!nvrtc_open(&n)) {
    print_message("# skipped: NVRTC is not installed, or the address sanitizer is on\n");
    skip();
  }
  for (size_t i = 0; i < (emit_many ? 1 : ZMI_COUNT(cards)); i++) {
    zmi_text t = {0};
    write_all(ZMI_TARGET_CUDA, i == 0, false, &t); // all codes once, those with barriers for each card
    char *words = nvrtc_compile(&n, zmi_text_str(&t), emit_many ? one : cards[i], emit_many);
    if (words) fail_msg("%s: %.1500s", cards[i], words);
    zmi_text_release(&t);
  }
  // The library stays loaded: what it keeps for itself would count as lost without it.
}

#endif
