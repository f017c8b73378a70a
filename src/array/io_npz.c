// Reading .npz: a zip file whose entries are .npy files, stored or deflated. The directory at its end, what stands before each entry and
// the data have to agree; sizes are held to what the bytes of the file can be before memory is asked for.
#include "array/io.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
  END_SIZE = 22,
  END64_SIZE = 56,
  LOCATOR_SIZE = 20,
  DIRECTORY_SIZE = 46,
  LOCAL_SIZE = 30,
  COMMENT_LIMIT = 65535,
  STORED = 0,
  DEFLATED = 8,
  FLAG_ENCRYPTED = 1 << 0,
  FLAG_SIZES_LATER = 1 << 3, // sizes and checksum stand behind the data; those of the directory count
  EXTRA_ZIP64 = 1,
  MOST_RATIO = 1032, // of deflate
  PIECE = 1 << 30
};

static const uint32_t later16 = 0xFFFF, later32 = 0xFFFFFFFF; // "see the form of 64 bits"

typedef struct zip {
  const uint8_t *data;
  size_t size;
  uint64_t directory, directory_size, count;
} zip;

typedef struct zip_entry {
  const char *name;
  size_t name_size;
  uint64_t packed, size, header, data; // header: where it begins; data: where its bytes begin
  uint32_t crc;
  unsigned flags, method;
} zip_entry;

static uint32_t le16(const uint8_t *p) {
  return p[0] | (uint32_t)p[1] << 8;
}

static uint32_t le32(const uint8_t *p) {
  return le16(p) | le16(p + 2) << 16;
}

static uint64_t le64(const uint8_t *p) {
  return le32(p) | (uint64_t)le32(p + 4) << 32;
}

// ---- the directory ----

static const uint8_t *find_end(const zip *z) {
  for (size_t back = END_SIZE; back <= z->size && back <= END_SIZE + COMMENT_LIMIT; back++) {
    const uint8_t *p = z->data + z->size - back;
    if (memcmp(p, "PK\5\6", 4) == 0 && le16(p + 20) == back - END_SIZE) return p;
  }
  return NULL;
}

// The end record of 64 bits before `end`; *last: where the directory ends at the latest.
static zm_status read_end64(zip *z, const uint8_t *end, uint64_t *last) {
  const size_t at = (size_t)(end - z->data);
  if (at < LOCATOR_SIZE + END64_SIZE || memcmp(end - LOCATOR_SIZE, "PK\6\7", 4) != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "its directory points to an end record of 64 bits that is not there");
  const uint64_t place = le64(end - LOCATOR_SIZE + 8);
  if (place > at - LOCATOR_SIZE - END64_SIZE || memcmp(z->data + place, "PK\6\6", 4) != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "its end record of 64 bits is not where its end says");
  const uint8_t *p = z->data + place;
  if (le32(p + 16) != 0 || le32(p + 20) != 0 || le64(p + 24) != le64(p + 32))
    return zmi_fail(ZM_ERROR_FORMAT, "it is one part of a zip file of several");
  z->count = le64(p + 32);
  z->directory_size = le64(p + 40);
  z->directory = le64(p + 48);
  *last = place;
  return ZM_OK;
}

static zm_status read_end(zip *z) {
  const uint8_t *p = find_end(z);
  if (!p) return zmi_fail(ZM_ERROR_FORMAT, "it has no directory at its end: it is truncated or no .npz");
  uint64_t last = (uint64_t)(p - z->data);
  z->count = le16(p + 10);
  z->directory_size = le32(p + 12);
  z->directory = le32(p + 16);
  if (z->count == later16 || z->directory_size == later32 || z->directory == later32) {
    zm_status status = read_end64(z, p, &last);
    if (status != ZM_OK) return status;
  } else if (le16(p + 4) != 0 || le16(p + 6) != 0 || le16(p + 8) != z->count) {
    return zmi_fail(ZM_ERROR_FORMAT, "it is one part of a zip file of several");
  }
  if (z->directory > last || z->directory_size != last - z->directory)
    return zmi_fail(ZM_ERROR_FORMAT, "its directory of %llu bytes at byte %llu does not end where its end record begins, at %llu",
                    (unsigned long long)z->directory_size, (unsigned long long)z->directory, (unsigned long long)last);
  if (z->count > z->directory_size / DIRECTORY_SIZE)
    return zmi_fail(ZM_ERROR_FORMAT, "its directory of %llu bytes cannot have %llu entries", (unsigned long long)z->directory_size,
                    (unsigned long long)z->count);
  return ZM_OK;
}

// Those of `wanted` numbers that are "later" (all their bits set, in a field of 32) stand in the extra field of 64 bits, in this order.
static zm_status read_extra(const uint8_t *extra, size_t size, uint64_t *const *wanted, size_t count) {
  const uint8_t *at = NULL;
  size_t left = 0;
  while (!at && size >= 4) {
    const size_t n = le16(extra + 2);
    if (n > size - 4) return zmi_fail(ZM_ERROR_FORMAT, "an extra field goes beyond its end");
    if (le16(extra) == EXTRA_ZIP64) {
      at = extra + 4;
      left = n;
    }
    extra += 4 + n;
    size -= 4 + n;
  }
  for (size_t i = 0; i < count; i++) {
    if (*wanted[i] != later32) continue;
    if (left < 8) return zmi_fail(ZM_ERROR_FORMAT, "a size of 64 bits that it points to is not there");
    *wanted[i] = le64(at);
    at += 8;
    left -= 8;
  }
  return ZM_OK;
}

// What stands before the data: must say what the directory says.
static zm_status read_local(const zip *z, zip_entry *e) {
  if (e->header > z->directory || z->directory - e->header < LOCAL_SIZE)
    return zmi_fail(ZM_ERROR_FORMAT, "it begins at byte %llu, which is not before the directory", (unsigned long long)e->header);
  const uint8_t *p = z->data + e->header;
  const uint64_t room = z->directory - e->header - LOCAL_SIZE, name_size = le16(p + 26), extra_size = le16(p + 28);
  if (memcmp(p, "PK\3\4", 4) != 0) return zmi_fail(ZM_ERROR_FORMAT, "at byte %llu no entry begins", (unsigned long long)e->header);
  if (name_size + extra_size > room || e->packed > room - name_size - extra_size)
    return zmi_fail(ZM_ERROR_FORMAT, "its %llu bytes go beyond the directory: the file is truncated or lies",
                    (unsigned long long)e->packed);
  if (name_size != e->name_size || memcmp(p + LOCAL_SIZE, e->name, e->name_size) != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "it has another name in the directory than before its data");
  uint64_t size = le32(p + 22), packed = le32(p + 18);
  zm_status status = read_extra(p + LOCAL_SIZE + name_size, extra_size, (uint64_t *[]){&size, &packed}, 2);
  if (status != ZM_OK) return status;
  if (le16(p + 8) != e->method || (!(e->flags & FLAG_SIZES_LATER) && (size != e->size || packed != e->packed || le32(p + 14) != e->crc)))
    return zmi_fail(ZM_ERROR_FORMAT, "its method, sizes or checksum are other ones in the directory than before its data");
  e->data = e->header + LOCAL_SIZE + name_size + extra_size;
  return ZM_OK;
}

static zm_status check_entry(const zip_entry *e) {
  if (e->flags & FLAG_ENCRYPTED) return zmi_fail(ZM_ERROR_UNSUPPORTED, "it is encrypted");
  if (e->method != STORED && e->method != DEFLATED)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "it is compressed by method %u; only stored and deflated entries can be read", e->method);
  if (e->name_size < 4 || memcmp(e->name + e->name_size - 4, ".npy", 4) != 0 || memchr(e->name, 0, e->name_size))
    return zmi_fail(ZM_ERROR_FORMAT, "it is no .npy");
  if (e->method == STORED && e->size != e->packed)
    return zmi_fail(ZM_ERROR_FORMAT, "it is stored in %llu bytes and said to have %llu", (unsigned long long)e->packed,
                    (unsigned long long)e->size);
  if (e->size / MOST_RATIO > e->packed)
    return zmi_fail(ZM_ERROR_FORMAT, "its %llu bytes cannot unpack to the %llu that it says", (unsigned long long)e->packed,
                    (unsigned long long)e->size);
  if (e->size > SIZE_MAX / 2) return zmi_fail(ZM_ERROR_FORMAT, "it is larger than can be addressed");
  return ZM_OK;
}

// Entry at *at of the directory, which moves on.
static zm_status read_entry(const zip *z, uint64_t *at, zip_entry *e) {
  const uint64_t end = z->directory + z->directory_size;
  const uint8_t *p = z->data + *at;
  if (end - *at < DIRECTORY_SIZE || memcmp(p, "PK\1\2", 4) != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "its directory is damaged at byte %llu", (unsigned long long)*at);
  const uint64_t name_size = le16(p + 28), extra_size = le16(p + 30), rest = name_size + extra_size + le16(p + 32);
  if (rest > end - *at - DIRECTORY_SIZE) return zmi_fail(ZM_ERROR_FORMAT, "its directory is damaged at byte %llu", (unsigned long long)*at);
  *e = (zip_entry){.name = (const char *)p + DIRECTORY_SIZE, .name_size = name_size};
  e->flags = le16(p + 8);
  e->method = le16(p + 10);
  e->crc = le32(p + 16);
  e->packed = le32(p + 20);
  e->size = le32(p + 24);
  e->header = le32(p + 42);
  *at += DIRECTORY_SIZE + rest;
  return read_extra(p + DIRECTORY_SIZE + name_size, extra_size, (uint64_t *[]){&e->size, &e->packed, &e->header}, 3);
}

static zm_status fail_entry(const zip_entry *e) {
  char name[ZMI_SHOWN_NAME] = {0}, shown[ZMI_SHOWN_NAME];
  memcpy(name, e->name, ZMI_MIN(e->name_size, sizeof name - 1));
  return zmi_fail_within("entry \"%s\"", zmi_tensor_shown(name, shown));
}

static int by_place(const void *a, const void *b) {
  const zip_entry *const *x = a, *const *y = b;
  return (*x)->header < (*y)->header ? -1 : (*x)->header > (*y)->header;
}

// Entries that share bytes could unpack the same data again and again.
static zm_status check_places(const zip_entry *entries, size_t count) {
  const zip_entry **order = zmi_calloc(count + 1, sizeof *order);
  zm_status status = order ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t i = 0; order && i < count; i++) order[i] = &entries[i];
  if (order && count) qsort(order, count, sizeof *order, by_place);
  for (size_t i = 1; i < count && status == ZM_OK; i++) {
    if (order[i - 1]->data + order[i - 1]->packed <= order[i]->header) continue;
    zmi_fail(ZM_ERROR_FORMAT, "it begins inside of another entry");
    status = fail_entry(order[i]);
  }
  zmi_free(order);
  return status;
}

static zm_status read_entries(const zip *z, zip_entry *entries) {
  uint64_t at = z->directory;
  for (uint64_t i = 0; i < z->count; i++) {
    zip_entry *e = &entries[i];
    e->name = NULL;
    zm_status status = read_entry(z, &at, e);
    if (status == ZM_OK) status = check_entry(e);
    if (status == ZM_OK) status = read_local(z, e);
    if (status != ZM_OK) return e->name ? fail_entry(e) : status;
  }
  if (at != z->directory + z->directory_size)
    return zmi_fail(ZM_ERROR_FORMAT, "its directory has more than its %llu entries", (unsigned long long)z->count);
  return check_places(entries, (size_t)z->count);
}

// ---- the data of an entry ----

typedef struct entry_source {
  zmi_source base;
  const uint8_t *at;
  size_t packed; // bytes from `at` on
  bool ended;    // the compressed stream said so
  uint32_t crc;
  z_stream z;
} entry_source;

void *zmi_zlib_alloc(void *user, unsigned items, unsigned size) {
  (void)user;
  return zmi_calloc(items, size);
}

void zmi_zlib_free(void *user, void *p) {
  (void)user;
  zmi_free(p);
}

static void count_crc(entry_source *s, const uint8_t *data, size_t size) {
  for (size_t n; size > 0; data += n, size -= n) {
    n = ZMI_MIN(size, (size_t)PIECE);
    s->crc = (uint32_t)crc32(s->crc, data, (uInt)n);
  }
}

static zm_status read_stored(zmi_source *base, void *to, size_t size) {
  entry_source *s = (entry_source *)base;
  if (size) memcpy(to, s->at, size);
  count_crc(s, to, size);
  s->at += size;
  s->packed -= size;
  return ZM_OK;
}

// Unpacks at most `size` bytes, *got of them.
static zm_status unpack(entry_source *s, uint8_t *to, size_t size, size_t *got) {
  const uInt in = (uInt)ZMI_MIN(s->packed, (size_t)PIECE), out = (uInt)ZMI_MIN(size, (size_t)PIECE);
  s->z.next_in = (Bytef *)(uintptr_t)s->at;
  s->z.avail_in = in;
  s->z.next_out = to;
  s->z.avail_out = out;
  const int result = inflate(&s->z, Z_NO_FLUSH);
  s->at += in - s->z.avail_in;
  s->packed -= in - s->z.avail_in;
  *got = out - s->z.avail_out;
  s->ended = result == Z_STREAM_END;
  if (result == Z_MEM_ERROR) return zmi_fail(ZM_ERROR_MEMORY, "out of memory while unpacking");
  if (result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR) return ZM_OK;
  return zmi_fail(ZM_ERROR_FORMAT, "its compressed data is damaged (%s)", s->z.msg ? s->z.msg : "a dictionary is missing");
}

static zm_status read_deflated(zmi_source *base, void *to, size_t size) {
  entry_source *s = (entry_source *)base;
  for (size_t at = 0, got = 0; at < size; at += got) {
    zm_status status = s->ended ? ZM_OK : unpack(s, (uint8_t *)to + at, size - at, &got);
    if (status != ZM_OK) return status;
    if (got == 0 || (s->ended && at + got < size))
      return zmi_fail(ZM_ERROR_FORMAT, "its compressed data ends before the bytes that it says: it is truncated or lies");
    count_crc(s, (uint8_t *)to + at, got);
  }
  return ZM_OK;
}

static zm_status finish_entry(entry_source *s, const zip_entry *e) {
  uint8_t more;
  size_t got = 0;
  if (e->method == DEFLATED && !s->ended) {
    zm_status status = unpack(s, &more, 1, &got);
    if (status != ZM_OK) return status;
  }
  if (got || s->packed || (e->method == DEFLATED && !s->ended))
    return zmi_fail(ZM_ERROR_FORMAT, "its compressed data goes on after the %llu bytes that it says", (unsigned long long)e->size);
  if (s->crc != e->crc) return zmi_fail(ZM_ERROR_FORMAT, "its checksum is %08x, its bytes have %08x: it is damaged", e->crc, s->crc);
  return ZM_OK;
}

static zm_status load_entry(zm_arrays *set, const zip *z, const zip_entry *e) {
  entry_source s = {.base = {e->method == STORED ? read_stored : read_deflated, (size_t)e->size},
                    .at = z->data + e->data,
                    .packed = (size_t)e->packed,
                    .z = {.zalloc = zmi_zlib_alloc, .zfree = zmi_zlib_free}};
  if (e->method == DEFLATED && inflateInit2(&s.z, -MAX_WBITS) != Z_OK) return zmi_fail(ZM_ERROR_MEMORY, "out of memory for unpacking");
  zm_array *a = zmi_npy_read(&s.base);
  zm_status status = a ? finish_entry(&s, e) : zm_last_status();
  if (e->method == DEFLATED) inflateEnd(&s.z);
  return status == ZM_OK ? zmi_arrays_add(set, e->name, e->name_size - 4, a) : status;
}

static zm_status load_entries(zm_arrays *set, zip *z) {
  zm_status status = read_end(z);
  if (status != ZM_OK) return status;
  zip_entry *entries = zmi_calloc((size_t)z->count + 1, sizeof *entries);
  if (!entries) return ZM_ERROR_MEMORY;
  status = read_entries(z, entries);
  for (uint64_t i = 0; i < z->count && status == ZM_OK; i++) {
    status = load_entry(set, z, &entries[i]);
    if (status != ZM_OK) status = fail_entry(&entries[i]);
  }
  zmi_free(entries);
  return status;
}

zm_arrays *zmi_npz_parse(const uint8_t *data, size_t size, const char *name) {
  zip z = {.data = data, .size = size};
  zm_scope *scope = zm_scope_open();
  zm_arrays *set = scope ? zmi_arrays_new() : NULL;
  zm_status status = set ? load_entries(set, &z) : zm_last_status();
  if (status != ZM_OK) zmi_fail_within("%s", name);
  return zmi_arrays_finish(scope, set, status);
}

zm_arrays *zm_load_npz(const char *path) {
  zmi_mapping map;
  if (!path) {
    zmi_fail(ZM_ERROR_ARGUMENT, "load_npz: the path is NULL");
    return NULL;
  }
  if (zmi_map_file(path, &map) != ZM_OK) return NULL;
  zm_arrays *set = zmi_npz_parse(map.data, map.size, path);
  zmi_unmap_file(&map);
  return set;
}
