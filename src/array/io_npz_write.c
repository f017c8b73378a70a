// Writing .npz: each array as an .npy, stored or deflated, then the directory. Files of the same arrays have the same bytes: no time, no
// owner.
#include "array/io.h"

#include <stdio.h>
#include <string.h>
#include <zlib.h>

enum {
  VERSION = 20,
  VERSION_ZIP64 = 45,
  UNIX = 3,
  MODE = 0100644,
  FLAG_UTF8 = 1 << 11,
  FIRST_DAY = 1 << 5 | 1, // 1980-01-01, the first that the format knows
  NAME_LIMIT = 65535 - 4,
  PIECE = 1 << 30,
  STEP = 1 << 16
};

typedef struct written {
  char name[24]; // arr_0
  const char *given;
  uint64_t place, packed, size;
  uint32_t crc;
  bool deflated, utf8;
} written;

typedef struct zip_writer {
  zmi_writer *file;
  uint64_t at;
  uint32_t limit;
  written *entries;
  size_t count;
} zip_writer;

static void put16(zmi_text *t, uint64_t v) {
  const uint8_t bytes[2] = {(uint8_t)v, (uint8_t)(v >> 8)};
  zmi_text_add_bytes(t, bytes, 2);
}

static void put32(zmi_text *t, uint64_t v) {
  put16(t, v & 0xFFFF);
  put16(t, v >> 16 & 0xFFFF);
}

static void put64(zmi_text *t, uint64_t v) {
  put32(t, v & 0xFFFFFFFF);
  put32(t, v >> 32);
}

static zm_status put(zip_writer *z, const void *data, size_t size) {
  zm_status status = size ? zmi_writer_write(z->file, data, size) : ZM_OK;
  z->at += size;
  return status;
}

static zm_status put_text(zip_writer *z, zmi_text *t) {
  zm_status status = t->failed ? zmi_fail(ZM_ERROR_MEMORY, "out of memory for a header") : put(z, t->data, t->size);
  zmi_text_release(t);
  return status;
}

// A number of 32 bits, or the mark that it stands in the form of 64.
static uint64_t short_of(const zip_writer *z, uint64_t v) {
  return v >= z->limit ? 0xFFFFFFFF : v;
}

static uint32_t crc_of(uint32_t crc, const uint8_t *data, size_t size) {
  for (size_t n; size > 0; data += n, size -= n) {
    n = ZMI_MIN(size, (size_t)PIECE);
    crc = (uint32_t)crc32(crc, data, (uInt)n);
  }
  return crc;
}

static const char *name_of(const written *e) {
  return e->given ? e->given : e->name;
}

static void put_facts(zmi_text *t, const zip_writer *z, const written *e, bool wide) {
  put16(t, wide ? VERSION_ZIP64 : VERSION);
  put16(t, e->utf8 ? FLAG_UTF8 : 0);
  put16(t, e->deflated ? 8 : 0);
  put16(t, 0);
  put16(t, FIRST_DAY);
  put32(t, e->crc);
  // Before its data an entry has both sizes in the form of 64 bits or none.
  put32(t, short_of(z, e->packed));
  put32(t, short_of(z, e->size));
  put16(t, strlen(name_of(e)) + 4);
}

static zm_status put_local(zip_writer *z, const written *e) {
  zmi_text t = {0};
  zip_writer sizes = *z;
  const bool wide = e->packed >= z->limit || e->size >= z->limit;
  if (wide) sizes.limit = 0;
  zmi_text_add_bytes(&t, "PK\3\4", 4);
  put_facts(&t, &sizes, e, wide);
  put16(&t, wide ? 20 : 0);
  zmi_text_add(&t, "%s.npy", name_of(e));
  if (wide) {
    put16(&t, 1);
    put16(&t, 16);
    put64(&t, e->size);
    put64(&t, e->packed);
  }
  return put_text(z, &t);
}

static void put_directory_entry(zmi_text *t, const zip_writer *z, const written *e) {
  const uint64_t numbers[3] = {e->size, e->packed, e->place};
  size_t wide = 0;
  for (size_t i = 0; i < 3; i++) wide += numbers[i] >= z->limit;
  zmi_text_add_bytes(t, "PK\1\2", 4);
  put16(t, UNIX << 8 | (wide ? VERSION_ZIP64 : VERSION));
  put_facts(t, z, e, wide > 0);
  put16(t, wide ? 4 + 8 * wide : 0);
  put16(t, 0);
  put16(t, 0);
  put16(t, 0);
  put32(t, (uint64_t)MODE << 16);
  put32(t, short_of(z, e->place));
  zmi_text_add(t, "%s.npy", name_of(e));
  if (wide) {
    put16(t, 1);
    put16(t, 8 * wide);
  }
  for (size_t i = 0; i < 3; i++)
    if (numbers[i] >= z->limit) put64(t, numbers[i]);
}

static zm_status put_directory(zip_writer *z) {
  zmi_text t = {0};
  const uint64_t place = z->at;
  for (size_t i = 0; i < z->count; i++) put_directory_entry(&t, z, &z->entries[i]);
  const uint64_t size = t.size;
  const bool wide = z->count >= ZMI_MIN(z->limit, 0xFFFFu) || size >= z->limit || place >= z->limit;
  if (wide) {
    zmi_text_add_bytes(&t, "PK\6\6", 4);
    put64(&t, 44);
    put16(&t, UNIX << 8 | VERSION_ZIP64);
    put16(&t, VERSION_ZIP64);
    put64(&t, 0); // two numbers of parts
    put64(&t, z->count);
    put64(&t, z->count);
    put64(&t, size);
    put64(&t, place);
    zmi_text_add_bytes(&t, "PK\6\7", 4);
    put32(&t, 0);
    put64(&t, place + size);
    put32(&t, 1);
  }
  zmi_text_add_bytes(&t, "PK\5\6", 4);
  put32(&t, 0);
  put16(&t, wide ? 0xFFFF : z->count);
  put16(&t, wide ? 0xFFFF : z->count);
  put32(&t, wide ? 0xFFFFFFFF : size);
  put32(&t, wide ? 0xFFFFFFFF : place);
  put16(&t, 0);
  return put_text(z, &t);
}

// ---- entries ----

// Deflates `size` bytes to the end of `out`.
static zm_status pack_part(z_stream *stream, const uint8_t *data, size_t size, bool last, zmi_text *out) {
  uint8_t step[STEP];
  do {
    const uInt n = (uInt)ZMI_MIN(size, (size_t)PIECE);
    stream->next_in = (Bytef *)(uintptr_t)data;
    stream->avail_in = n;
    do {
      stream->next_out = step;
      stream->avail_out = sizeof step;
      if (deflate(stream, last && n == size ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
        return zmi_fail(ZM_ERROR_MEMORY, "the compression failed");
      zmi_text_add_bytes(out, step, sizeof step - stream->avail_out);
    } while (stream->avail_out == 0 && !out->failed);
    data += n;
    size -= n;
  } while (size > 0);
  return out->failed ? zmi_fail(ZM_ERROR_MEMORY, "out of memory while compressing") : ZM_OK;
}

static zm_status pack(const zmi_text *header, const void *data, size_t bytes, zmi_text *out) {
  z_stream stream = {.zalloc = zmi_zlib_alloc, .zfree = zmi_zlib_free};
  if (deflateInit2(&stream, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    return zmi_fail(ZM_ERROR_MEMORY, "out of memory for compressing");
  zm_status status = pack_part(&stream, (const uint8_t *)header->data, header->size, bytes == 0, out);
  if (status == ZM_OK && bytes) status = pack_part(&stream, data, bytes, true, out);
  deflateEnd(&stream);
  return status;
}

static zm_status put_array(zip_writer *z, written *e, const zm_array *a) {
  zmi_text header = {0}, packed = {0};
  size_t bytes;
  zmi_type_bytes(&a->type, &bytes);
  zm_status status = zmi_npy_header(&header, a);
  if (status == ZM_OK) {
    e->place = z->at;
    e->crc = crc_of(crc_of(0, (const uint8_t *)header.data, header.size), a->data, bytes);
    e->size = e->packed = header.size + (uint64_t)bytes;
    if (e->deflated) status = pack(&header, a->data, bytes, &packed);
    if (e->deflated) e->packed = packed.size;
  }
  if (status == ZM_OK) status = put_local(z, e);
  if (status == ZM_OK) status = e->deflated ? put(z, packed.data, packed.size) : put(z, header.data, header.size);
  if (status == ZM_OK && !e->deflated) status = put(z, a->data, bytes);
  zmi_text_release(&header);
  zmi_text_release(&packed);
  return status;
}

static zm_status name_entries(written *entries, const char *const *names, size_t count, bool compress) {
  zmi_map *seen = zmi_map_new();
  zm_status status = seen ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    written *e = &entries[i];
    *e = (written){.given = names ? names[i] : NULL, .deflated = compress};
    snprintf(e->name, sizeof e->name, "arr_%zu", i);
    const char *name = name_of(e);
    const size_t size = strlen(name);
    for (size_t k = 0; k < size; k++) e->utf8 |= (unsigned char)name[k] > 0x7F;
    if (size > NAME_LIMIT)
      status = zmi_fail(ZM_ERROR_ARGUMENT, "save_npz: name %zu has %zu bytes, the most is %d", i, size, NAME_LIMIT);
    else if (zmi_map_get(seen, name, size, NULL))
      status = zmi_fail(ZM_ERROR_ARGUMENT, "save_npz: two arrays have the name \"%.200s\"", name);
    else if (!zmi_map_put(seen, name, size, 0))
      status = ZM_ERROR_MEMORY;
  }
  zmi_map_free(seen);
  return status;
}

static zm_status write_file(const char *path, zip_writer *z, zm_array *const *arrays) {
  z->file = zmi_writer_open(path);
  if (!z->file) return zm_last_status();
  zm_status status = ZM_OK;
  for (size_t i = 0; i < z->count && status == ZM_OK; i++) status = put_array(z, &z->entries[i], arrays[i]);
  if (status == ZM_OK) status = put_directory(z);
  if (status == ZM_OK) return zmi_writer_publish(z->file);
  zmi_writer_abandon(z->file);
  return status;
}

zm_status zmi_npz_write(const char *path, const char *const *names, zm_array *const *arrays, size_t count, bool compress, uint32_t limit) {
  if (!zmi_arrays_ready("save_npz", path, names, arrays, count)) return zm_last_status();
  zip_writer z = {.limit = limit, .count = count, .entries = zmi_calloc(count + 1, sizeof *z.entries)};
  if (!z.entries) return ZM_ERROR_MEMORY;
  zm_status status = name_entries(z.entries, names, count, compress);
  if (status == ZM_OK) status = write_file(path, &z, arrays);
  zmi_free(z.entries);
  return status;
}

zm_status zm_save_npz(const char *path, const char *const *names, zm_array *const *arrays, size_t count, bool compress) {
  return zmi_npz_write(path, names, arrays, count, compress, 0xFFFFFFFF);
}
