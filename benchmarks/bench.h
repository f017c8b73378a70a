// Shared by the programs of this folder that time the catalog: what memory can do, and chains of operations that are compiled as one.
#ifndef BENCH_H
#define BENCH_H

#include "catalog/catalog.h"
#include "tools/tools.h"
#include <zmlx/elementwise.h>

// ---- streams.c ----
// GB/s (1e9 bytes) of all workers reading `reads` arrays and writing `writes` arrays of the same size, all beyond the caches: the best of
// plain stores and of stores past the caches, with and without asking for lines ahead. 0: no memory, or a pair that is not in the table.
typedef struct bench_rates {
  double plain, past;
} bench_rates;
bench_rates bench_stream(zmi_pool *pool, int reads, int writes);
// The better one of two passes, with stores of one kind.
double bench_stream_once(zmi_pool *pool, int reads, int writes, bool past);

// ---- chains.c ----
enum { BENCH_CHAIN_IN = 6, BENCH_CHAIN_OUT = 3 };
typedef struct bench_chain {
  const char *name, *formula;
  int whole;   // operands of the shape [rows, columns]
  int vectors; // then operands [columns]
  int nout;
  zm_function f;
} bench_chain;
extern const bench_chain bench_chains[];
extern const size_t bench_chain_count;
const bench_chain *bench_chain_find(const char *name);

#endif
