// What the readers and writers of files of arrays share.
#ifndef ZMI_IO_H
#define ZMI_IO_H

#include "array/safetensors.h"
#include <zmlx/io.h>

// ---- bytes on their way in ----
// `left` bytes are still to come; read fails if fewer are there. Messages are without the name of the file, which callers put before them.
typedef struct zmi_source zmi_source;
struct zmi_source {
  zm_status (*read)(zmi_source *s, void *to, size_t size);
  size_t left;
};

// ---- .npy (io_npy.c) ----
// The array that makes up the rest of the source, all of it.
zm_array *zmi_npy_read(zmi_source *s);
// What comes before the data of `a` in a file.
zm_status zmi_npy_header(zmi_text *out, const zm_array *a);
// A whole file in memory, for tests and fuzzing.
zm_array *zmi_npy_parse(const uint8_t *data, size_t size, const char *name);

// ---- .npz (io_npz.c, io_npz_write.c) ----
zm_arrays *zmi_npz_parse(const uint8_t *data, size_t size, const char *name);
// Sizes and places from `limit` on are written in the form of 64 bits; files need it from 0xFFFFFFFF on.
zm_status zmi_npz_write(const char *path, const char *const *names, zm_array *const *arrays, size_t count, bool compress, uint32_t limit);
// Memory for zlib.
void *zmi_zlib_alloc(void *user, unsigned items, unsigned size);
void zmi_zlib_free(void *user, void *p);

// ---- sets (io.c) ----
zm_arrays *zmi_arrays_new(void);
// Keeps a reference of the array. A name that is there already is an error.
zm_status zmi_arrays_add(zm_arrays *set, const char *name, size_t name_size, zm_array *a);
// Ends a load in a scope of its own: its arrays move to the scope around it, or everything is released if status is not ZM_OK.
zm_arrays *zmi_arrays_finish(zm_scope *scope, zm_arrays *set, zm_status status);
// False, with an error, if something is missing; evaluates all arrays.
bool zmi_arrays_ready(const char *function, const char *path, const char *const *names, zm_array *const *arrays, size_t count);

#endif
