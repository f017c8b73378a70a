// Private to the codec of caches: its parts, and what calibration, files and coding share.
#ifndef ZMI_KVTC_H
#define ZMI_KVTC_H

#include "catalog/catalog.h"
#include <zmlx/kvtc.h>

// Consecutive components that are quantized together, with 0, 2, 4 or 8 bits each.
typedef struct kvtc_group {
  int32_t size, bits;
} kvtc_group;

// One stream (keys or values): a token's features are those of layer after layer, head after head.
typedef struct kvtc_stream {
  int64_t features, rank; // p, r
  float *mean;            // [p]
  float *basis;           // [p][r], rounded to float16 as it is stored
  kvtc_group *groups;
  int64_t count; // of groups; their sizes add up to r
} kvtc_stream;

struct zm_kvtc {
  zm_kvtc_options options; // with defaults filled in
  kvtc_stream stream[2];   // keys, values
  int streams;
};

void zmi_kvtc_stream_release(kvtc_stream *s);
// Checks and defaults.
zm_status zmi_kvtc_options_fill(const zm_kvtc_options *options, zm_kvtc_options *filled);
int64_t zmi_kvtc_row_bytes(const kvtc_stream *s); // of one token

// Components and groups of rows [n][p], which are changed. The budget is in bits for a row.
zm_status zmi_kvtc_fit(float *rows, int64_t n, int64_t p, int64_t rank, int64_t bits, kvtc_stream *s);
// Eigenvalues (falling) and eigenvectors (rows of `a` afterwards) of a symmetric matrix [n][n].
zm_status zmi_kvtc_eigen(double *a, double *values, int64_t n);

// Turns (or turns back) the dims of one head at a position.
void zmi_kvtc_turn(const zm_kvtc_options *o, float *head, int64_t position, bool back);
// Tokens [first, first + n) of all layers as float32 rows [n][p], turned back if `back`.
zm_status zmi_kvtc_rows(const zm_kvtc_options *o, zm_array *const *layers, size_t count, int64_t first, int64_t n, bool back, float *rows);
// [1, H, T, D] or [H, T, D], all alike; gives H, T, D.
zm_status zmi_kvtc_shape(const char *what, zm_array *const *layers, size_t count, int64_t shape[3]);

#endif
