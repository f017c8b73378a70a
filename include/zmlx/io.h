// Files of arrays: .npy and .npz of NumPy, .safetensors. Each is read as MLX reads it and can be read by NumPy and MLX.
//
// Saving evaluates the arrays first. A file appears under its name only when it is complete; on failure what was there before stays.
// Loading copies: the file may change or go afterwards. What a file says of itself is checked before memory is asked for; a damaged file
// is refused with one sentence that names the file and the array.
//
// dtypes in .npy and .npz: bfloat16 is '<V2', two bytes an element, as MLX writes it (in NumPy: x.view(numpy.uint16)). Read besides: other
// byte orders, column-major order, and float64, which is rounded to float32; other dtypes are refused. In .safetensors the float8 dtypes
// are read as uint8.
#ifndef ZMLX_IO_H
#define ZMLX_IO_H

#include <stdbool.h>
#include <zmlx/array.h>

#ifdef __cplusplus
extern "C" {
#endif

ZM_API zm_status zm_save_npy(const char *path, zm_array *a);
ZM_API zm_array *zm_load_npy(const char *path);

// Named arrays, as they come from one file. The set keeps its arrays until it is released; they belong to the scope in which they were
// loaded as well, and stay in it when the set is released.
typedef struct zm_arrays zm_arrays;
ZM_API void zm_arrays_free(zm_arrays *set);                        // NULL is ignored
ZM_API size_t zm_arrays_count(const zm_arrays *set);               // 0 of NULL
ZM_API const char *zm_arrays_name(const zm_arrays *set, size_t i); // owned by the set; NULL if there is no array i
ZM_API zm_array *zm_arrays_at(const zm_arrays *set, size_t i);
ZM_API zm_array *zm_arrays_find(const zm_arrays *set, const char *name);
ZM_API bool zm_arrays_has(const zm_arrays *set, const char *name);
// The text of a key of the file's metadata (safetensors only), owned by the set; NULL, without an error, if there is none.
ZM_API const char *zm_arrays_metadata(const zm_arrays *set, const char *key);
// Key i of the metadata, in the order of the file; NULL from their number on.
ZM_API const char *zm_arrays_metadata_key(const zm_arrays *set, size_t i);

// Arrays in the order of the file. names: `count` names, all different, without ".npy"; NULL for arr_0, arr_1, ... compress: deflate, which
// is slow and helps little with weights.
ZM_API zm_status zm_save_npz(const char *path, const char *const *names, zm_array *const *arrays, size_t count, bool compress);
ZM_API zm_arrays *zm_load_npz(const char *path);

// Arrays in order of their names. metadata: keys and texts in turn, then NULL; NULL for {"format": "mlx"}.
ZM_API zm_status zm_save_safetensors(const char *path, const char *const *names, zm_array *const *arrays, size_t count,
                                     const char *const *metadata);
// One file, or the shards of a folder (of keys that several shards have, the first shard's text counts).
ZM_API zm_arrays *zm_load_safetensors(const char *path);

#ifdef __cplusplus
}
#endif
#endif
