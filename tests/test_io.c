// Files of arrays: what is written is read back, files of NumPy and MLX are read and those of NumPy written byte for byte, every kind of
// damaged or lying file gets one sentence, a failed save changes nothing. With TEST_IO_KEEP=FOLDER the files stay there for
// scripts/make_io_cases.py --check.
#include "array/io.h"
#include "cases.h"
#include "temp.h"

#include <zmlx/zmlx.h>

static json_t *root;
static temp_folder folder;

static const zm_dtype dtypes[] = {ZM_BOOL, ZM_U8, ZM_U16, ZM_U32, ZM_U64, ZM_I8, ZM_I16, ZM_I32, ZM_I64, ZM_F16, ZM_BF16, ZM_F32};

#define SHAPE(...) (int64_t[]){__VA_ARGS__}, (int)ZMI_COUNT(((int64_t[]){__VA_ARGS__}))

// Any bits, NaNs too, except for bool.
static zm_array *some(zm_dtype dtype, const int64_t *shape, int rank, unsigned seed) {
  uint8_t bytes[4096];
  zmi_type type = zmi_type_of(dtype, rank, shape);
  size_t size;
  assert_true(zmi_type_bytes(&type, &size) && size <= sizeof bytes);
  for (size_t i = 0; i < size; i++) {
    seed = seed * 1664525u + 1013904223u;
    bytes[i] = (uint8_t)(dtype == ZM_BOOL ? seed >> 31 : seed >> 24);
  }
  zm_array *a = zm_array_from_data(bytes, dtype, shape, rank);
  assert_non_null(a);
  return a;
}

static void expect_same(const char *what, zm_array *found, zm_array *wanted) {
  char a[128], b[128];
  size_t bytes;
  if (!found) fail_msg("%s: %s", what, zm_last_error());
  if (!zmi_type_equal(&found->type, &wanted->type))
    fail_msg("%s: %s, wanted %s", what, zmi_type_text(&found->type, a), zmi_type_text(&wanted->type, b));
  const void *x = zm_array_data(found), *y = zm_array_data(wanted);
  assert_non_null(x);
  assert_non_null(y);
  zmi_type_bytes(&found->type, &bytes);
  if (memcmp(x, y, bytes) != 0) fail_msg("%s: other bytes", what);
}

// ---- round trips ----

enum { MANY = 12 * 10 };

// Every dtype with every rank and with sizes 0, named after them.
static size_t make_many(zm_array **arrays, char names[MANY][32], const char **list) {
  static const struct {
    int64_t shape[ZM_MAX_RANK];
    int rank;
  } shapes[] = {{{0}, 0},
                {{5}, 1},
                {{2, 3}, 2},
                {{2, 1, 3}, 3},
                {{1, 2, 2, 2}, 4},
                {{2, 1, 2, 1, 2}, 5},
                {{1, 1, 1, 2, 1, 3}, 6},
                {{2, 1, 1, 1, 1, 1, 2}, 7},
                {{1, 2, 1, 2, 1, 2, 1, 2}, 8},
                {{3, 0, 2}, 3}};
  size_t n = 0;
  for (size_t d = 0; d < ZMI_COUNT(dtypes); d++) {
    for (size_t s = 0; s < ZMI_COUNT(shapes); s++, n++) {
      arrays[n] = some(dtypes[d], shapes[s].shape, shapes[s].rank, (unsigned)n);
      snprintf(names[n], sizeof names[n], "%s.%03zu", zm_dtype_name(dtypes[d]), n);
      list[n] = names[n];
    }
  }
  assert_int_equal(n, MANY);
  return n;
}

static void expect_set(const char *what, zm_arrays *set, const char *const *names, zm_array *const *arrays, size_t count) {
  if (!set) fail_msg("%s: %s", what, zm_last_error());
  assert_int_equal(zm_arrays_count(set), count);
  for (size_t i = 0; i < count; i++) {
    assert_true(zm_arrays_has(set, names[i]));
    expect_same(names[i], zm_arrays_find(set, names[i]), arrays[i]);
  }
  zm_arrays_free(set);
}

// What a file holds, for the script.
static void note(const char *path, const char *const *names, zm_array *const *arrays, size_t count) {
  if (!getenv("TEST_IO_KEEP")) return;
  json_t *all = json_object();
  for (size_t i = 0; i < count; i++) {
    char hex[8193] = "";
    size_t bytes;
    const uint8_t *data = zm_array_data(arrays[i]);
    zmi_type_bytes(&arrays[i]->type, &bytes);
    for (size_t k = 0; k < bytes; k++) snprintf(hex + 2 * k, 3, "%02x", data[k]);
    json_t *shape = json_array();
    for (int k = 0; k < arrays[i]->type.rank; k++) json_array_append_new(shape, json_integer(arrays[i]->type.shape[k]));
    json_object_set_new(all, names[i], json_pack("{s:s, s:o, s:s}", "t", zm_dtype_name(arrays[i]->type.dtype), "s", shape, "x", hex));
  }
  char listed[1100];
  snprintf(listed, sizeof listed, "%s.json", path);
  json_dump_file(all, listed, 0);
  json_decref(all);
}

static void npy_round_trip(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *arrays[MANY];
  char names[MANY][32], file[64];
  const char *list[MANY];
  const size_t n = make_many(arrays, names, list);
  for (size_t i = 0; i < n; i++) {
    snprintf(file, sizeof file, "%s.npy", names[i]);
    const char *path = temp_path(&folder, file);
    assert_int_equal(zm_save_npy(path, arrays[i]), ZM_OK);
    expect_same(names[i], zm_load_npy(path), arrays[i]);
    note(path, (const char *[]){""}, &arrays[i], 1);
  }
  zm_scope_close(scope);
}

static void npz_round_trip(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *arrays[MANY];
  char names[MANY][32];
  const char *list[MANY];
  const size_t n = make_many(arrays, names, list);
  for (int compress = 0; compress < 2; compress++) {
    const char *path = temp_path(&folder, compress ? "packed.npz" : "stored.npz");
    assert_int_equal(zm_save_npz(path, list, arrays, n, compress), ZM_OK);
    expect_set(path, zm_load_npz(path), list, arrays, n);
    note(path, list, arrays, n);
  }
  // Numbers of 64 bits: for all, and for those above a limit that some are below.
  static const uint32_t limits[] = {0, 1, 200, 3000};
  for (size_t i = 0; i < ZMI_COUNT(limits); i++) {
    char file[32];
    snprintf(file, sizeof file, "wide%u.npz", (unsigned)limits[i]);
    const char *path = temp_path(&folder, file);
    assert_int_equal(zmi_npz_write(path, list, arrays, n, i % 2, limits[i]), ZM_OK);
    expect_set(path, zm_load_npz(path), list, arrays, n);
    note(path, list, arrays, n);
  }
  // Names of its own, and no arrays at all.
  const char *path = temp_path(&folder, "unnamed.npz");
  assert_int_equal(zm_save_npz(path, NULL, arrays, 2, false), ZM_OK);
  expect_set(path, zm_load_npz(path), (const char *[]){"arr_0", "arr_1"}, arrays, 2);
  note(path, (const char *[]){"arr_0", "arr_1"}, arrays, 2);
  path = temp_path(&folder, "none.npz");
  assert_int_equal(zm_save_npz(path, NULL, NULL, 0, true), ZM_OK);
  expect_set(path, zm_load_npz(path), NULL, NULL, 0);
  zm_scope_close(scope);
}

static void safetensors_round_trip(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *arrays[MANY];
  char names[MANY][32];
  const char *list[MANY];
  const size_t n = make_many(arrays, names, list);
  const char *path = temp_path(&folder, "all.safetensors"), *const metadata[] = {"format", "pt", "who \"x\"", "gr\xc3\xb6\n", NULL};
  assert_int_equal(zm_save_safetensors(path, list, arrays, n, metadata), ZM_OK);
  zm_arrays *set = zm_load_safetensors(path);
  assert_non_null(set);
  assert_string_equal(zm_arrays_metadata(set, "format"), "pt");
  assert_string_equal(zm_arrays_metadata(set, "who \"x\""), "gr\xc3\xb6\n");
  assert_string_equal(zm_arrays_metadata_key(set, 1), "who \"x\"");
  assert_null(zm_arrays_metadata(set, "none"));
  assert_null(zm_arrays_metadata_key(set, 2));
  expect_set(path, set, list, arrays, n);
  note(path, list, arrays, n);
  path = temp_path(&folder, "plain.safetensors");
  assert_int_equal(zm_save_safetensors(path, list, arrays, 3, NULL), ZM_OK);
  set = zm_load_safetensors(path);
  assert_string_equal(zm_arrays_metadata(set, "format"), "mlx");
  expect_set(path, set, list, arrays, 3);
  zm_scope_close(scope);
}

// A lazy array is evaluated; one that is no longer in memory is read at once, so that its file may go.
static void lazy_arrays_and_lives(void **state) {
  (void)state;
  zm_scope *outer = zm_scope_open(), *scope = zm_scope_open();
  const char *path = temp_path(&folder, "lazy.npz");
  zm_array *x = zm_arange(0, 6, 1, ZM_F32), *y = zm_transpose(zm_reshape(zm_add(x, x), SHAPE(2, 3)), NULL);
  assert_int_equal(zm_save_npz(path, (const char *[]){"y"}, &y, 1, true), ZM_OK);
  zm_arrays *set = zm_load_npz(path);
  assert_int_equal(unlink(path), 0);
  expect_same("y", zm_arrays_find(set, "y"), y);
  zm_scope_close(scope); // the set still has it
  const float *data = zm_array_data(zm_arrays_at(set, 0));
  const float wanted[] = {0, 6, 2, 8, 4, 10};
  assert_memory_equal(data, wanted, sizeof wanted);
  zm_array *kept = zm_arrays_at(set, 0);
  (void)kept;
  zm_arrays_free(set);
  scope = zm_scope_open();
  assert_int_equal(zm_save_npz(path, NULL, (zm_array *[]){zm_full(3, ZM_I32, SHAPE(2))}, 1, false), ZM_OK);
  set = zm_load_npz(path);
  kept = zm_arrays_at(set, 0);
  zm_arrays_free(set); // the scope still has it
  assert_int_equal(((const int32_t *)zm_array_data(kept))[1], 3);
  zm_scope_close(scope);
  zm_scope_close(outer);
}

// ---- files of others ----

static uint8_t *bytes_of(const json_t *hex, size_t *size) {
  const char *text = json_string_value(hex);
  *size = strlen(text) / 2;
  uint8_t *data = malloc(*size + 1);
  for (size_t i = 0; i < *size; i++) data[i] = (uint8_t)strtoul((char[3]){text[2 * i], text[2 * i + 1], 0}, NULL, 16);
  return data;
}

static void expect_case(const json_t *c, const char *path) {
  const char *kind = json_string_value(json_object_get(c, "kind")), *label = json_string_value(json_object_get(c, "label")), *name;
  json_t *arrays = json_object_get(c, "arrays"), *stored, *text;
  if (strcmp(kind, "npy") == 0) {
    zm_array *wanted = cases_array(json_object_get(arrays, "")), *found = zm_load_npy(path);
    expect_same(label, found, wanted);
    if (!json_is_true(json_object_get(c, "same"))) return;
    char *ours;
    size_t size, written;
    uint8_t *theirs = bytes_of(json_object_get(c, "file"), &size);
    assert_int_equal(zm_save_npy(path, found), ZM_OK);
    assert_int_equal(zmi_read_file(path, 1 << 20, &ours, &written), ZM_OK);
    if (size != written || memcmp(ours, theirs, size) != 0) fail_msg("%s: NumPy writes other bytes", label);
    zmi_free(ours);
    free(theirs);
    return;
  }
  zm_arrays *set = strcmp(kind, "npz") == 0 ? zm_load_npz(path) : zm_load_safetensors(path);
  if (!set) fail_msg("%s: %s", label, zm_last_error());
  assert_int_equal(zm_arrays_count(set), json_object_size(arrays));
  json_object_foreach(arrays, name, stored) expect_same(label, zm_arrays_find(set, name), cases_array(stored));
  json_object_foreach(json_object_get(c, "metadata"), name, text)
      assert_string_equal(zm_arrays_metadata(set, name), json_string_value(text));
  assert_null(zm_arrays_metadata_key(set, json_object_size(json_object_get(c, "metadata"))));
  zm_arrays_free(set);
}

static void files_of_numpy_and_mlx(void **state) {
  (void)state;
  const json_t *files = json_object_get(root, "files");
  assert_true(json_array_size(files) > 30);
  for (size_t i = 0; i < json_array_size(files); i++) {
    const json_t *c = json_array_get(files, i);
    zm_scope *scope = zm_scope_open();
    const char *path = temp_path(&folder, "theirs");
    size_t size;
    uint8_t *data = bytes_of(json_object_get(c, "file"), &size);
    assert_int_equal(temp_write(path, data, size), 0);
    free(data);
    expect_case(c, path);
    assert_int_equal(unlink(path), 0);
    zm_scope_close(scope);
  }
}

// ---- damaged .npy ----

static void expect_refused_npy(const uint8_t *data, size_t size, const char *reason) {
  uint8_t *exact = malloc(size ? size : 1); // a sanitizer sees a read past the end
  if (size) memcpy(exact, data, size);
  zm_clear_error();
  zm_array *a = zmi_npy_parse(exact, size, "x.npy");
  free(exact);
  if (a || !strstr(zm_last_error(), reason)) fail_msg("expected \"%s\", found \"%s\"", reason, a ? "an array" : zm_last_error());
  assert_int_equal(zm_last_status(), ZM_ERROR_FORMAT);
  assert_memory_equal(zm_last_error(), "x.npy: ", 7);
  assert_null(strchr(zm_last_error(), '\n'));
}

static size_t npy_of(uint8_t *out, int version, const char *header, size_t header_size, size_t data_size) {
  const size_t prefix = version == 1 ? 10 : 12;
  memcpy(out, "\x93NUMPY", 6);
  out[6] = (uint8_t)version;
  out[7] = 0;
  for (size_t i = 8; i < prefix; i++) out[i] = (uint8_t)(header_size >> 8 * (i - 8));
  memcpy(out + prefix, header, strlen(header));
  memset(out + prefix + strlen(header), 2, data_size);
  return prefix + strlen(header) + data_size;
}

static void damaged_npy(void **state) {
  (void)state;
#define DICT(descr, order, shape) "{'descr': " descr ", 'fortran_order': " order ", 'shape': " shape ", }\n"
  static const struct {
    const char *header;
    size_t data;
    const char *reason;
  } rows[] = {
      {DICT("'<f4'", "False", "(2,)"), 7, "need 8 bytes, 7 are there"},
      {DICT("'<f4'", "False", "(2,)"), 9, "1 more follow"},
      {DICT("'<f4'", "True", "(2, 3)"), 23, "need 24 bytes, 23 are there"},
      {DICT("'<c8'", "False", "(2,)"), 16, "its dtype is '<c8'"},
      {DICT("'|O'", "False", "(2,)"), 16, "its dtype is '|O'"},
      {DICT("'<U5'", "False", "(1,)"), 20, "its dtype is '<U5'"},
      {DICT("'|f4'", "False", "(2,)"), 8, "its dtype is '|f4'"},
      {DICT("'>V2'", "False", "(2,)"), 4, "its dtype is '>V2'"},
      {DICT("''", "False", "(2,)"), 4, "its dtype is ''"},
      {DICT("7", "False", "(2,)"), 4, "'descr' of its header is not the short text"},
      {DICT("'0123456789abcdefgh'", "False", "(2,)"), 4, "'descr' of its header is not the short text"},
      {DICT("[('a', '<f4')]", "False", "(2,)"), 8, "its elements are records"},
      {DICT("'<f4'", "0", "(2,)"), 8, "'fortran_order' of its header is neither"},
      {DICT("'<f4'", "False", "[2]"), 8, "'shape' of its header is not a tuple"},
      {DICT("'<f4'", "False", "(2 3)"), 8, "'shape' of its header is not a tuple"},
      {DICT("'<f4'", "False", "(-2,)"), 8, "dim 0 of its shape is not a whole number"},
      {DICT("'<f4'", "False", "(1, 2.5)"), 8, "'shape' of its header is not a tuple of whole numbers"},
      {DICT("'<f4'", "False", "(9223372036854775808,)"), 8, "dim 0 of its shape is more than can be addressed"},
      {DICT("'<f4'", "False", "(4611686018427387904, 4)"), 8, "the product of its shape is more"},
      {DICT("'<f4'", "False", "(4294967296, 4294967296, 0)"), 0, "the product of its shape is more"},
      {DICT("'<f8'", "False", "(1152921504606846976,)"), 8, "the product of its shape is more"},
      {DICT("'<f4'", "False", "(4611686018427387,)"), 8, "bytes, 8 are there"},
      {DICT("'|u1'", "False", "(1, 1, 1, 1, 1, 1, 1, 1, 1)"), 1, "its shape has more than 8 dims"},
      {"{'descr': '<f4', 'shape': (2,), }\n", 8, "its header has no 'fortran_order'"},
      {"{'descr': '<f4', 'descr': '<f4', 'shape': (2,), }\n", 8, "the key 'descr' twice"},
      {"{'descr': '<f4', 'other': 1, 'shape': (2,), }\n", 8, "the key 'other'"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), } x\n", 8, "its header goes on after the dict"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,)", 8, "its header is not a Python dict"},
      {"{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}", 8, "its header is not a Python dict"},
      {"['descr']\n", 8, "its header is not a Python dict"},
  };
  zm_scope *scope = zm_scope_open();
  uint8_t file[512];
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    for (int version = 1; version <= 3; version++) {
      expect_refused_npy(file, npy_of(file, version, rows[i].header, strlen(rows[i].header), rows[i].data), rows[i].reason);
    }
  }
  const char *good = DICT("'<f4'", "False", "(2,)");
  size_t size = npy_of(file, 1, good, strlen(good), 8);
  assert_non_null(zmi_npy_parse(file, size, "x.npy"));
  for (size_t n = 0; n < size; n++) expect_refused_npy(file, n, "truncated");
  for (size_t i = 0; i < 6; i++) {
    file[i] ^= 1;
    expect_refused_npy(file, size, "it does not begin as a .npy does");
    file[i] ^= 1;
  }
  file[6] = 4;
  expect_refused_npy(file, size, "version 4.0 of .npy is not known");
  file[6] = 1;
  file[7] = 1;
  expect_refused_npy(file, size, "version 1.1 of .npy is not known");
  expect_refused_npy(file, npy_of(file, 1, good, 65535, 8), "its header has 65535 bytes, only");
  expect_refused_npy(file, npy_of(file, 2, good, 0xFFFFFFFF, 8), "a header of 4294967295 bytes is beyond the limit");
  // bool is 0 or 1 whatever the file says, and old Python's numbers are numbers.
  const char *old = DICT("'|b1'", "False", "(3L,)");
  zm_array *a = zmi_npy_parse(file, npy_of(file, 1, old, strlen(old), 3), "x.npy");
  assert_memory_equal(zm_array_data(a), "\1\1\1", 3);
  zm_scope_close(scope);
}

// ---- damaged .npz ----

static uint8_t *npz_of(bool compress, size_t *size) {
  const char *path = temp_path(&folder, "good.npz"), *const names[] = {"aa", "b"};
  char *data;
  zm_array *arrays[] = {zm_arange(0, 40, 1, ZM_F32), zm_full(7, ZM_I16, SHAPE(2, 3))};
  assert_int_equal(zm_save_npz(path, names, arrays, 2, compress), ZM_OK);
  assert_int_equal(zmi_read_file(path, 1 << 20, &data, size), ZM_OK);
  uint8_t *copy = malloc(*size);
  memcpy(copy, data, *size);
  zmi_free(data);
  return copy;
}

static void expect_refused_npz(const uint8_t *data, size_t size, const char *reason) {
  uint8_t *exact = malloc(size ? size : 1);
  if (size) memcpy(exact, data, size);
  zm_clear_error();
  zm_arrays *set = zmi_npz_parse(exact, size, "x.npz");
  free(exact);
  if (set || !strstr(zm_last_error(), reason)) fail_msg("expected \"%s\", found \"%s\"", reason, set ? "arrays" : zm_last_error());
  assert_memory_equal(zm_last_error(), "x.npz: ", 7);
  assert_null(strchr(zm_last_error(), '\n'));
}

// The nth place of a signature "PK\a\b".
static size_t place_of(const uint8_t *data, size_t size, const char *signature, int nth) {
  for (size_t i = 0; i + 4 <= size; i++)
    if (memcmp(data + i, signature, 4) == 0 && nth-- == 0) return i;
  fail_msg("no signature");
  return 0;
}

#define LOCAL "PK\3\4"
#define DIRECTORY "PK\1\2"
#define END "PK\5\6"

static void damaged_npz(void **state) {
  (void)state;
  static const struct {
    const char *signature; // of the record in which a field is changed
    int nth;
    size_t at, size;
    uint64_t value;
    const char *reason;
    int compress;
  } rows[] = {
      {END, 0, 4, 2, 1, "one part of a zip file of several", 0},
      {END, 0, 10, 2, 1, "one part of a zip file of several", 0},
      {END, 0, 12, 4, 5, "does not end where its end record begins", 0},
      {END, 0, 16, 4, 0xFFFFFF, "does not end where its end record begins", 0},
      {END, 0, 16, 4, 0xFFFFFFFF, "end record of 64 bits that is not there", 0},
      {END, 0, 20, 2, 9, "it has no directory at its end", 0},
      {END, 0, 8, 4, 0x00010001, "its directory has more than its 1 entries", 0},
      {END, 0, 8, 4, 0x00030003, "cannot have 3 entries", 0},
      {END, 0, 8, 4, 0x40004000, "cannot have 16384 entries", 0},
      {DIRECTORY, 0, 0, 1, 'Q', "its directory is damaged at byte", 0},
      {DIRECTORY, 0, 8, 2, 1, "entry \"aa.npy\": it is encrypted", 0},
      {DIRECTORY, 0, 10, 2, 12, "entry \"aa.npy\": it is compressed by method 12", 0},
      {DIRECTORY, 0, 10, 2, 8, "entry \"aa.npy\": its method, sizes or checksum are other ones", 0},
      {DIRECTORY, 0, 16, 4, 1, "entry \"aa.npy\": its method, sizes or checksum are other ones", 0},
      {DIRECTORY, 0, 20, 4, 100, "entry \"aa.npy\": it is stored in 100 bytes and said to have 288", 0},
      {DIRECTORY, 0, 24, 4, 100, "entry \"aa.npy\": it is stored in 288 bytes and said to have 100", 0},
      {DIRECTORY, 0, 24, 4, 0xFFFFFFFF, "entry \"aa.npy\": a size of 64 bits that it points to is not there", 0},
      {DIRECTORY, 0, 24, 4, 0x7FFFFFFF, "cannot unpack to the 2147483647 that it says", 1},
      {DIRECTORY, 0, 24, 4, 300, "its method, sizes or checksum are other ones", 1},
      {DIRECTORY, 0, 28, 2, 60000, "its directory is damaged at byte", 0},
      {DIRECTORY, 0, 30, 2, 3, "its directory is damaged at byte", 0},
      {DIRECTORY, 0, 42, 4, 1, "at byte 1 no entry begins", 0},
      {DIRECTORY, 0, 42, 4, 0xFFFFFF, "which is not before the directory", 0},
      {DIRECTORY, 1, 42, 4, 0, "entry \"b.npy\": ", 0},
      {DIRECTORY, 0, 46, 1, 'x', "entry \"xa.npy\": it has another name", 0},
      {DIRECTORY, 0, 50, 1, 'x', "entry \"aa.nxy\": it is no .npy", 0},
      {LOCAL, 0, 8, 2, 8, "its method, sizes or checksum are other ones", 0},
      {LOCAL, 0, 14, 4, 8, "its method, sizes or checksum are other ones", 0},
      {LOCAL, 0, 18, 4, 8, "its method, sizes or checksum are other ones", 0},
      {LOCAL, 0, 22, 4, 8, "its method, sizes or checksum are other ones", 0},
      {LOCAL, 0, 22, 4, 0xFFFFFFFF, "a size of 64 bits that it points to is not there", 0},
      {LOCAL, 0, 28, 2, 60000, "go beyond the directory", 0},
      {LOCAL, 0, 36, 1, 'x', "entry \"aa.npy\": it does not begin as a .npy does", 0},
  };
  zm_scope *scope = zm_scope_open();
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    size_t size;
    uint8_t *data = npz_of(rows[i].compress, &size);
    size_t at = place_of(data, size, rows[i].signature, rows[i].nth) + rows[i].at;
    for (size_t k = 0; k < rows[i].size; k++) data[at + k] = (uint8_t)(rows[i].value >> 8 * k);
    expect_refused_npz(data, size, rows[i].reason);
    free(data);
  }
  expect_refused_npz(NULL, 0, "it has no directory at its end");
  zm_scope_close(scope);
}

// Both places changed alike: what deflate and the checksum say then counts.
static void lying_npz(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  static const struct {
    size_t local, directory;
    int64_t change; // of a number of 32 bits
    bool compress;
    const char *reason;
  } rows[] = {
      {14, 16, 1, false, "entry \"aa.npy\": its checksum is"},
      {14, 16, 1, true, "entry \"aa.npy\": its checksum is"},
      {22, 24, 4, true, "entry \"aa.npy\": its shape and dtype need 160 bytes, and 4 more follow"},
      {22, 24, -4, true, "entry \"aa.npy\": its shape and dtype need 160 bytes, 156 are there"},
      {18, 20, -3, true, "entry \"aa.npy\": its compressed data ends before the bytes that it says"},
      {18, 20, 3, true, "entry \"b.npy\": it begins inside of another entry"},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    size_t size;
    uint8_t *data = npz_of(rows[i].compress, &size);
    uint8_t *p[2] = {data + place_of(data, size, LOCAL, 0) + rows[i].local, data + place_of(data, size, DIRECTORY, 0) + rows[i].directory};
    for (int k = 0; k < 2; k++) {
      uint32_t v;
      memcpy(&v, p[k], 4);
      v += (uint32_t)rows[i].change;
      memcpy(p[k], &v, 4);
    }
    expect_refused_npz(data, size, rows[i].reason);
    free(data);
  }
  // The same entry twice is caught by its name, or as bytes that two entries share.
  size_t size;
  uint8_t *data = npz_of(false, &size);
  memcpy(data + place_of(data, size, DIRECTORY, 1) + 42, data + place_of(data, size, DIRECTORY, 0) + 42, 4);
  expect_refused_npz(data, size, "entry \"b.npy\"");
  free(data);
  zm_scope_close(scope);
}

// Cut anywhere it is refused; with any byte changed it is refused, or what it holds is what it was.
static void npz_with_any_byte_changed(void **state) {
  (void)state;
  for (int compress = 0; compress < 2; compress++) {
    zm_scope *scope = zm_scope_open();
    size_t size, refused = 0;
    uint8_t *data = npz_of(compress, &size);
    zm_arrays *good = zmi_npz_parse(data, size, "x.npz");
    for (size_t n = 0; n < size; n += 3) expect_refused_npz(data, n, "");
    for (size_t i = 0; i < size; i++) {
      for (int bit = 0; bit < 8; bit += 3) {
        data[i] ^= (uint8_t)(1 << bit);
        zm_scope *inner = zm_scope_open();
        zm_arrays *set = zmi_npz_parse(data, size, "x.npz");
        for (size_t k = 0; k < zm_arrays_count(set); k++) expect_same("changed", zm_arrays_at(set, k), zm_arrays_at(good, k));
        refused += set == NULL;
        zm_arrays_free(set);
        zm_scope_close(inner);
        data[i] ^= (uint8_t)(1 << bit);
      }
    }
    assert_true(refused > 2 * size);
    zm_arrays_free(good);
    free(data);
    zm_scope_close(scope);
  }
}

// ---- failures ----

static void nothing_changes_when_a_save_fails(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *a = zm_full(1, ZM_F32, SHAPE(3)), *two[2] = {a, a}, *hole[2] = {a, NULL};
  const char *const same[] = {"x", "x"}, *const gap[] = {"x", NULL}, *const bad[] = {"x", "\xff"}, *const odd[] = {"key", NULL},
                    *const twice[] = {"k", "1", "k", "2", NULL};
  char kept[1024];
  snprintf(kept, sizeof kept, "%s", temp_path(&folder, "kept"));
  assert_int_equal(zm_save_npy(kept, a), ZM_OK);
  const int files = temp_count(&folder);
#define FAILS(call, reason)                                                                                                                \
  do {                                                                                                                                     \
    zm_clear_error();                                                                                                                      \
    assert_int_not_equal(call, ZM_OK);                                                                                                     \
    if (!strstr(zm_last_error(), reason)) fail_msg("%s: %s", reason, zm_last_error());                                                     \
    expect_same("kept", zm_load_npy(kept), a);                                                                                             \
    assert_int_equal(temp_count(&folder), files);                                                                                          \
  } while (0)
  FAILS(zm_save_npy(NULL, a), "save_npy: the path is NULL");
  FAILS(zm_save_npy(kept, NULL), "operand 1 is NULL");
  FAILS(zm_save_npy(temp_path(&folder, "none/x.npy"), a), "no such file or folder");
  FAILS(zm_save_npz(kept, same, two, 2, false), "two arrays have the name \"x\"");
  FAILS(zm_save_npz(kept, gap, two, 2, false), "name 1 is NULL");
  FAILS(zm_save_npz(kept, NULL, hole, 2, false), "operand 1 is NULL");
  FAILS(zm_save_npz(kept, NULL, NULL, 2, false), "the list of arrays is NULL");
  FAILS(zm_save_npz(temp_path(&folder, "none/x.npz"), NULL, two, 2, true), "no such file or folder");
  FAILS(zm_save_safetensors(kept, NULL, two, 2, NULL), "the list of names is NULL");
  FAILS(zm_save_safetensors(kept, same, two, 2, NULL), "have the name \"x\"");
  FAILS(zm_save_safetensors(kept, bad, two, 2, NULL), "not valid UTF-8");
  FAILS(zm_save_safetensors(kept, same, two, 1, odd), "key 0 of the metadata has no text");
  FAILS(zm_save_safetensors(kept, same, two, 1, twice), "the key \"k\" twice");
  assert_null(zm_load_npy(NULL));
  assert_null(zm_load_npz(temp_path(&folder, "nothing")));
  assert_non_null(strstr(zm_last_error(), "nothing: no such file"));
  assert_null(zm_load_safetensors(kept));
  zm_arrays *set = zm_load_npz(temp_path(&folder, "stored.npz"));
  assert_null(zm_arrays_find(set, "missing"));
  assert_non_null(strstr(zm_last_error(), "named \"missing\""));
  assert_null(zm_arrays_at(set, MANY));
  assert_null(zm_arrays_name(set, MANY));
  assert_int_equal(zm_arrays_count(NULL), 0);
  zm_arrays_free(set);
  zm_arrays_free(NULL);
  zm_scope_close(scope);
}

// Each allocation fails in turn: an error of memory, no file, nothing lost.
static void every_allocation_fails_once(void **state) {
  (void)state;
  zm_scope *scope = zm_scope_open();
  zm_array *arrays[2] = {some(ZM_F32, SHAPE(4, 2), 1), some(ZM_BOOL, SHAPE(9), 2)};
  const char *const names[] = {"x", "y"}, *const metadata[] = {"k", "v", NULL};
  assert_int_equal(zm_eval(arrays, 2), ZM_OK);
  for (int what = 0; what < 4; what++) {
    const char *path = temp_path(&folder, "short");
    const int files = temp_count(&folder);
    bool done = false;
    for (uint64_t n = 1; !done; n++) {
      zm_clear_error();
      zmi_alloc_fail_at(n);
      zm_status status = what == 0   ? zm_save_npy(path, arrays[0])
                         : what == 3 ? zm_save_safetensors(path, names, arrays, 2, metadata)
                                     : zm_save_npz(path, names, arrays, 2, what == 2);
      zmi_alloc_fail_at(0);
      done = status == ZM_OK;
      if (!done) assert_int_equal(status, ZM_ERROR_MEMORY);
      assert_int_equal(temp_count(&folder), files + done);
      assert_true(n < 500);
    }
    done = false;
    for (uint64_t n = 1; !done; n++) {
      zm_scope *inner = zm_scope_open();
      zm_clear_error();
      zmi_alloc_fail_at(n);
      zm_array *one = what == 0 ? zm_load_npy(path) : NULL;
      zm_arrays *set = what == 0 ? NULL : what == 3 ? zm_load_safetensors(path) : zm_load_npz(path);
      zmi_alloc_fail_at(0);
      done = one || set;
      if (!done) assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
      if (one) expect_same("short", one, arrays[0]);
      if (set) expect_set("short", set, names, arrays, 2);
      zm_scope_close(inner);
      assert_true(n < 500);
    }
    assert_int_equal(unlink(path), 0);
  }
  zm_scope_close(scope);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(npy_round_trip),
      cmocka_unit_test(npz_round_trip),
      cmocka_unit_test(safetensors_round_trip),
      cmocka_unit_test(lazy_arrays_and_lives),
      cmocka_unit_test(files_of_numpy_and_mlx),
      cmocka_unit_test(damaged_npy),
      cmocka_unit_test(damaged_npz),
      cmocka_unit_test(lying_npz),
      cmocka_unit_test(npz_with_any_byte_changed),
      cmocka_unit_test(nothing_changes_when_a_save_fails),
      cmocka_unit_test(every_allocation_fails_once),
  };
  const char *keep = getenv("TEST_IO_KEEP");
  root = cases_load("tests/data/io_cases.json");
  if (!root || temp_make(&folder) != 0) return 1;
  char made[sizeof folder.path];
  memcpy(made, folder.path, sizeof made);
  if (keep) snprintf(folder.path, sizeof folder.path, "%s", keep);
  int failed = cmocka_run_group_tests_name("io", tests, NULL, NULL);
  memcpy(folder.path, made, sizeof made);
  temp_remove(&folder);
  json_decref(root);
  return failed;
}
