// Shared by the programs of this folder that time the catalog: what memory can do, and chains of operations that are compiled as one.
#ifndef BENCH_H
#define BENCH_H

#include "catalog/catalog.h"
#include "tools/tools.h"
#include <zmlx/elementwise.h>

// ---- streams.c ----
// Arrays of the same size, all beyond the caches, that are read or written; and of a quarter of it, read: a byte for each four.
typedef struct bench_arrays {
  int reads, writes, thin;
} bench_arrays;
// Of eight ways in which all workers do so, the one that is fastest by the median of passes in turn, and its GB/s (1e9 bytes). way -1: no
// memory, or arrays that are not in the table.
typedef struct bench_way {
  int way;
  double rate;
} bench_way;
bench_way bench_stream_way(zmi_pool *pool, bench_arrays a);
// One pass in that way. Right behind another one over the same arrays it finds part of them in the caches: let other work stand between.
double bench_stream_once(zmi_pool *pool, bench_arrays a, int way);

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
