// Serves timings of catalog kernels to a script that times the same functions in other libraries in turn (benchmarks/peers/beside_mlx.py).
// Reads commands from standard input, one a line, and answers each with one line of JSON:
//   machine                  device, threads, dtype of nothing: what runs here
//   bandwidth                {"read", "copy"} in GB/s (1e9 bytes; copy counts what is read and what is written)
//   list, list arrays        the rows of the catalog; those of arrays.c
//   open NAME DTYPE ELEMENTS operands as the row's sample says, the largest of about ELEMENTS elements (0: as it stands there)
//   chains                   the chains of chains.c
//   chain NAME DTYPE ELEMENTS opens one of them, compiled by zm_compile
//   save FOLDER              writes the open row's operands and results, floats as float32: in.0.npy, ..., out.0.npy, ...
//   time SECONDS             evaluates what is open again and again for that long: {"seconds": of the fastest call, "calls"}
//   turns READS WRITES THIN N  a call of what is open and a pass of such streams in turn, N times: {"way", "seconds": [], "rates": []}
//   stream READS WRITES THIN {"way", "rate"}: the fastest way of reading and writing so many arrays, its GB/s (streams.c)
#include "arrays.h"
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmlx/io.h>

typedef struct open_row {
  const zmi_entry *entry;
  zm_compiled *chain; // instead of an entry
  const char *name;
  int nout;
  zm_scope *scope; // holds the operands
  zm_array *in[ZMI_CATALOG_IN];
  int nin;
  double params[ZMI_CATALOG_PARAMS];
} open_row;

static void complain(const char *what) {
  printf("{\"error\": \"%s: ", what);
  for (const char *c = zm_last_error(); *c; c++) {
    if (*c == '"' || *c == '\\') putchar('\\');
    putchar(*c == '\n' ? ' ' : *c);
  }
  printf("\"}\n");
}

static zm_status results(const open_row *row, zm_array **out) {
  if (row->chain) return zm_compiled_call(row->chain, row->in, row->nin, out, row->nout);
  return zmi_entry_call(row->entry, row->in, row->nin, row->params, out);
}

static zm_status call(const open_row *row) {
  zm_scope *scope = zm_scope_open();
  zm_array *out[ZMI_CATALOG_OUT] = {NULL};
  zm_status status = scope ? results(row, out) : ZM_ERROR_MEMORY;
  if (status == ZM_OK) status = zm_eval(out, (size_t)row->nout);
  zm_scope_close(scope);
  return status;
}

static void close_row(open_row *row) {
  zm_scope_close(row->scope);
  zm_compiled_free(row->chain);
  *row = (open_row){0};
}

static void print_operands(const open_row *row) {
  printf("{\"operands\": [");
  for (int i = 0; i < row->nin; i++) {
    printf("%s{\"dtype\": \"%s\", \"shape\": [", i ? ", " : "", zm_dtype_name(zm_array_dtype(row->in[i])));
    for (int k = 0; k < zm_array_rank(row->in[i]); k++) printf("%s%lld", k ? ", " : "", (long long)zm_array_dim(row->in[i], k));
    printf("]}");
  }
  printf("], \"bytes_out\": ");
  zm_scope *scope = zm_scope_open();
  zm_array *out[ZMI_CATALOG_OUT] = {NULL};
  long long bytes = 0;
  if (results(row, out) == ZM_OK) {
    for (int o = 0; o < row->nout; o++) bytes += (long long)zm_array_size(out[o]) * (long long)zm_dtype_size(zm_array_dtype(out[o]));
  }
  zm_scope_close(scope);
  printf("%lld}\n", bytes);
}

static const zmi_entry *find_array_row(const char *name) {
  for (size_t i = 0; i < array_row_count(); i++) {
    if (strcmp(array_row(i)->name, name) == 0) return array_row(i);
  }
  return NULL;
}

// Rows of arrays are asked for as "arrays.NAME".
static void open_named(open_row *row, const char *name, const char *dtype, long long elements) {
  const bool arrays = strncmp(name, "arrays.", 7) == 0;
  close_row(row);
  row->entry = arrays ? find_array_row(name + 7) : zmi_catalog_find(name);
  row->scope = zm_scope_open();
  if (!row->entry || !row->scope) {
    printf("{\"error\": \"there is no such row\"}\n");
    close_row(row);
    return;
  }
  zmi_entry_parameters(row->entry, row->params);
  row->name = row->entry->name;
  row->nout = row->entry->outputs ? row->entry->outputs : 1;
  row->nin = arrays ? array_row_operands(row->entry, row->in) : zmi_entry_sample(row->entry, zm_dtype_from_name(dtype), elements, row->in);
  if (row->nin < 0 || zm_eval(row->in, (size_t)row->nin) != ZM_OK || call(row) != ZM_OK || call(row) != ZM_OK) {
    complain(name);
    close_row(row);
    return;
  }
  print_operands(row);
}

// Numbers from -2 to 2, each a multiple of 2^-6 that follows from its place.
static zm_array *filled(int64_t rows, int64_t columns, int seed, zm_dtype dtype) {
  const int64_t shape[2] = {rows, columns};
  float *x = zmi_malloc((size_t)(rows * columns) * sizeof *x);
  if (!x) return NULL;
  for (int64_t i = 0; i < rows * columns; i++) x[i] = (float)((uint32_t)(i + seed) * 2654435761u >> 24) / 64 - 2;
  zm_array *a = zm_array_from_data(x, ZM_F32, rows > 1 ? shape : shape + 1, rows > 1 ? 2 : 1);
  zmi_free(x);
  return zm_astype(a, dtype);
}

static void open_chain(open_row *row, const char *name, const char *dtype, long long elements) {
  enum { COLUMNS = 4096 };
  const bench_chain *c = bench_chain_find(name);
  close_row(row);
  row->scope = zm_scope_open();
  if (!c || !row->scope) {
    printf("{\"error\": \"there is no such chain\"}\n");
    close_row(row);
    return;
  }
  row->name = c->name;
  row->nout = c->nout;
  for (; row->nin < c->whole + c->vectors; row->nin++) {
    const bool whole = row->nin < c->whole;
    row->in[row->nin] = filled(whole ? ZMI_MAX(2, elements / COLUMNS) : 1, COLUMNS, row->nin, zm_dtype_from_name(dtype));
  }
  row->chain = zm_compile(c->f, NULL, c->nout);
  if (!row->chain || zm_eval(row->in, (size_t)row->nin) != ZM_OK || call(row) != ZM_OK || call(row) != ZM_OK) {
    complain(name);
    close_row(row);
    return;
  }
  print_operands(row);
}

static void time_row(const open_row *row, double seconds) {
  if (!row->scope) {
    printf("{\"error\": \"no row is open\"}\n");
    return;
  }
  const double start = zmi_now();
  double now = start, best = 1e30;
  long long calls = 0;
  while (now - start < seconds || calls == 0) {
    const double before = now;
    if (call(row) != ZM_OK) {
      complain(row->name);
      return;
    }
    calls++;
    now = zmi_now();
    best = now - before < best ? now - before : best;
  }
  printf("{\"seconds\": %.9g, \"calls\": %lld}\n", best, calls);
}

static zm_status save_one(const char *folder, const char *kind, int i, zm_array *a) {
  char path[512];
  const zm_dtype dtype = zm_array_dtype(a);
  snprintf(path, sizeof path, "%s/%s.%d.npy", folder, kind, i);
  return zm_save_npy(path, dtype == ZM_F16 || dtype == ZM_BF16 ? zm_astype(a, ZM_F32) : a);
}

static void save_row(const open_row *row, const char *folder) {
  zm_scope *scope = zm_scope_open();
  zm_array *out[ZMI_CATALOG_OUT] = {NULL};
  zm_status status = row->entry ? zmi_entry_call(row->entry, row->in, row->nin, row->params, out) : ZM_ERROR_ARGUMENT;
  const int nout = row->entry && row->entry->outputs ? row->entry->outputs : 1;
  for (int i = 0; i < row->nin && status == ZM_OK; i++) status = save_one(folder, "in", i, row->in[i]);
  for (int o = 0; o < nout && status == ZM_OK; o++) status = save_one(folder, "out", o, out[o]);
  zm_scope_close(scope);
  if (status == ZM_OK)
    printf("{\"results\": %d}\n", nout);
  else
    complain("save");
}

// ---- bandwidth: what a plain read and a plain copy by all workers reach ----

typedef struct copy_work {
  char *from, *to;
  size_t bytes;
} copy_work;

static void copy_part(void *user, int worker, int workers) {
  const copy_work *w = user;
  size_t begin = w->bytes / 64 * (size_t)worker / (size_t)workers * 64, end = w->bytes / 64 * (size_t)(worker + 1) / (size_t)workers * 64;
  memcpy(w->to + begin, w->from + begin, end - begin);
}

static double copy_rate(zmi_pool *pool) {
  copy_work w = {.bytes = (size_t)256 << 20};
  w.from = zmi_block_alloc(w.bytes);
  w.to = zmi_block_alloc(w.bytes);
  double best = 1e30;
  if (w.from && w.to) {
    memset(w.from, 1, w.bytes);
    for (int pass = 0; pass < 6; pass++) {
      double t = zmi_now();
      zmi_pool_run(pool, copy_part, &w);
      t = zmi_now() - t;
      if (pass > 0 && t < best) best = t;
    }
  }
  if (w.from) zmi_block_free(w.from, w.bytes);
  if (w.to) zmi_block_free(w.to, w.bytes);
  return 2 * (double)w.bytes / best / 1e9;
}

static void print_bandwidth(void) {
  zmi_pool *pool = zmi_pool_new(0);
  zmi_bandwidth *b = pool ? zmi_bandwidth_new(pool) : NULL;
  if (b)
    printf("{\"read\": %.4g, \"copy\": %.4g}\n", zmi_bandwidth_measure(b), copy_rate(pool));
  else
    complain("bandwidth");
  zmi_bandwidth_free(b);
  zmi_pool_free(pool);
}

static void print_arrays(void) {
  printf("[");
  for (size_t i = 0; i < array_row_count(); i++) {
    const zmi_entry *e = array_row(i);
    printf("%s{\"name\": \"arrays.%s\", \"group\": \"arrays\", \"parameters\": \"\", \"sample\": \"%s\"}", i ? ", " : "", e->name,
           e->sample);
  }
  printf("]\n");
}

static void print_stream(zmi_pool *pool, bench_arrays a) {
  const bench_way best = pool ? bench_stream_way(pool, a) : (bench_way){-1, 0};
  if (best.way >= 0)
    printf("{\"way\": %d, \"rate\": %.4g}\n", best.way, best.rate);
  else
    printf("{\"error\": \"no streams of %d reads, %d writes and %d thin reads\"}\n", a.reads, a.writes, a.thin);
}

// What else runs on the machine slows neighbours in time alike: their ratio says more than the best of each.
static void print_turns(const open_row *row, zmi_pool *pool, bench_arrays a, int count) {
  enum { MOST = 100 };
  double seconds[MOST], rates[MOST];
  const bench_way best = bench_stream_way(pool, a);
  if (!row->scope || best.way < 0) {
    printf("{\"error\": \"no row is open, or there are no such streams\"}\n");
    return;
  }
  count = ZMI_MAX(1, ZMI_MIN(count, (int)MOST));
  for (int i = 0; i < count; i++) {
    const double start = zmi_now();
    if (call(row) != ZM_OK) {
      complain(row->name);
      return;
    }
    seconds[i] = zmi_now() - start;
    rates[i] = bench_stream_once(pool, a, best.way);
  }
  printf("{\"way\": %d, \"seconds\": [", best.way);
  for (int i = 0; i < count; i++) printf("%s%.4g", i ? ", " : "", seconds[i]);
  printf("], \"rates\": [");
  for (int i = 0; i < count; i++) printf("%s%.4g", i ? ", " : "", rates[i]);
  printf("]}\n");
}

static void print_chains(void) {
  printf("[");
  for (size_t i = 0; i < bench_chain_count; i++)
    printf("%s{\"name\": \"%s\", \"formula\": \"%s\"}", i ? ", " : "", bench_chains[i].name, bench_chains[i].formula);
  printf("]\n");
}

static void print_list(void) {
  const zmi_catalog_group *group;
  printf("[");
  for (size_t i = 0; i < zmi_catalog_count(); i++) {
    const zmi_entry *e = zmi_catalog_at(i, &group);
    printf("%s{\"name\": \"%s\", \"group\": \"%s\", \"parameters\": \"%s\", \"sample\": \"%s\"}", i ? ", " : "", e->name, group->name,
           e->parameters ? e->parameters : "", e->sample ? e->sample : "");
  }
  printf("]\n");
}

int main(void) {
  open_row row = {0};
  char line[512], name[64], dtype[32], folder[400];
  zmi_pool *pool = zmi_pool_new(0);
  bench_arrays a;
  int turns;
  long long elements;
  double seconds;
  while (fgets(line, sizeof line, stdin)) {
    if (strncmp(line, "list arrays", 11) == 0)
      print_arrays();
    else if (strncmp(line, "list", 4) == 0)
      print_list();
    else if (strncmp(line, "bandwidth", 9) == 0)
      print_bandwidth();
    else if (strncmp(line, "machine", 7) == 0)
      printf("{\"isa\": \"%s\", \"compiler\": \"%s\", \"cache_bytes\": %llu}\n", zmi_kernels_find(NULL)->name, __VERSION__,
             (unsigned long long)zmi_cache_bytes());
    else if (sscanf(line, "open %63s %31s %lld", name, dtype, &elements) == 3)
      open_named(&row, name, dtype, elements);
    else if (sscanf(line, "save %399s", folder) == 1)
      save_row(&row, folder);
    else if (sscanf(line, "chain %63s %31s %lld", name, dtype, &elements) == 3)
      open_chain(&row, name, dtype, elements);
    else if (strncmp(line, "chains", 6) == 0)
      print_chains();
    else if (sscanf(line, "turns %d %d %d %d", &a.reads, &a.writes, &a.thin, &turns) == 4)
      print_turns(&row, pool, a, turns);
    else if (sscanf(line, "stream %d %d %d", &a.reads, &a.writes, &a.thin) == 3)
      print_stream(pool, a);
    else if (sscanf(line, "time %lf", &seconds) == 1)
      time_row(&row, seconds);
    else
      printf("{\"error\": \"there is no such command\"}\n");
    fflush(stdout);
  }
  close_row(&row);
  zmi_pool_free(pool);
  return 0;
}
