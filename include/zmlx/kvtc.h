// KVTC: a codec for key and value caches. The first and last tokens are kept as float16; the others are turned back (keys), projected onto
// the principal components of a calibration, quantized group by group with as many bits as a budget gives each, and deflated.
// docs/kvtc.md describes the format.
//
// Ownership: a codec belongs to who made it, until zm_kvtc_free(). Threads: a codec may be used by several at a time.
#ifndef ZMLX_KVTC_H
#define ZMLX_KVTC_H

#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zm_kvtc zm_kvtc;

typedef struct zm_kvtc_options {
  int64_t prefix, suffix; // tokens kept at the beginning and at the end; 0: 4 and 128, negative: none
  // How keys were rotated: the pairs of dims [offset, offset + dim) of each head, MLX's way (traditional: pairs (2i, 2i + 1)). dim 0: not.
  int64_t rope_dim, rope_offset;
  double rope_base; // 0: 10000
  bool rope_traditional;
  bool rope_values;   // values were rotated too
  bool single_stream; // there are keys only
  int level;          // of deflate, 1 to 9; 0: 3
} zm_kvtc_options;

// Options of a kind of model: "lfm2", "qwen3", "glm". False with a message for an unknown name.
ZM_API bool zm_kvtc_preset(const char *name, zm_kvtc_options *options);

typedef struct zm_kvtc_calibration {
  int64_t bits; // for one token's keys, and as many for its values; 0: an eighth of 16 bits a number
  int64_t rank; // most components; 0: as many as the samples give
  int64_t rows; // most tokens that are looked at, evenly chosen; 0: 512
} zm_kvtc_calibration;

// Components and bits from caches that are typical: keys[l] and values[l] of layer l, [1, heads, tokens, dim] or without the first, any
// float dtype. values NULL with single_stream.
ZM_API zm_kvtc *zm_kvtc_calibrate(zm_array *const *keys, zm_array *const *values, size_t layers, const zm_kvtc_options *options,
                                  const zm_kvtc_calibration *calibration);
// A calibration in a folder: k_mu.npy, k_V.npy, k_plan.json, the same with v, and meta.json.
ZM_API zm_status zm_kvtc_save(const zm_kvtc *codec, const char *folder);
ZM_API zm_kvtc *zm_kvtc_load(const char *folder, const zm_kvtc_options *options);
ZM_API void zm_kvtc_free(zm_kvtc *codec); // NULL is ignored

// One sequence's caches as bytes, which zm_kvtc_bytes_free() releases. The layers have the shapes of the calibration, with any number of
// tokens from prefix + suffix on.
ZM_API zm_status zm_kvtc_compress(const zm_kvtc *codec, zm_array *const *keys, zm_array *const *values, size_t layers, void **bytes,
                                  size_t *size);
ZM_API void zm_kvtc_bytes_free(void *bytes);
// Back: keys[l] and values[l] become float16 [1, heads, tokens, dim] in the current scope. values may be NULL.
ZM_API zm_status zm_kvtc_decompress(const zm_kvtc *codec, const void *bytes, size_t size, size_t layers, zm_array **keys,
                                    zm_array **values);

#ifdef __cplusplus
}
#endif
#endif
