// Safetensors: what is written is read back; every kind of damaged, lying or missing file gets one sentence; nothing is lost when writing
// fails.
#define _GNU_SOURCE 1
#include "array/array.h"
#include "temp.h"

#include <jansson.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static uint64_t random_state = 0x9E3779B97F4A7C15u;
static uint64_t random_below(uint64_t n) { // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  random_state ^= random_state << 17;
  return random_state % n;
}

// A file's bytes in memory, exactly as long as they are, so that a sanitizer sees a read past the end. Released by the caller.
static uint8_t *file_of(const char *header, size_t data_size, size_t *size) {
  size_t head = strlen(header);
  *size = 8 + head + data_size;
  uint8_t *file = malloc(*size ? *size : 1);
  assert_non_null(file);
  for (size_t i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)head >> (8 * i));
  memcpy(file + 8, header, head);
  for (size_t i = 0; i < data_size; i++) file[8 + head + i] = (uint8_t)(i * 37 + 1);
  return file;
}

static zmi_tensors *parse(const char *header, size_t data_size, uint8_t **file) {
  size_t size;
  *file = file_of(header, data_size, &size);
  zmi_error_clear();
  return zmi_tensors_parse(*file, size, "mem.safetensors");
}

static void expect_refused(const char *header, size_t data_size, const char *reason) {
  uint8_t *file;
  zmi_tensors *t = parse(header, data_size, &file);
  if (t || !strstr(zm_last_error(), reason)) print_error("%.300s\n  expected: %s\n  message:  %s\n", header, reason, zm_last_error());
  assert_null(t);
  assert_int_equal(zm_last_status(), ZM_ERROR_FORMAT);
  assert_memory_equal(zm_last_error(), "mem.safetensors: ", 17);
  assert_non_null(strstr(zm_last_error(), reason));
  assert_null(strchr(zm_last_error(), '\n'));
  free(file);
}

// ---- valid files ----

static void valid_header(void **state) {
  (void)state;
  uint8_t *file;
  zmi_tensors *t = parse("{\"__metadata__\":{\"format\":\"mlx\",\"n\":\"1\"},"
                         "\"z.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[3,27]},"
                         "\"a.bytes\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3],\"more\":[1,{}]},"
                         "\"none\":{\"dtype\":\"BF16\",\"shape\":[4,0,7],\"data_offsets\":[27,27]},"
                         "\"scalar\":{\"dtype\":\"F8_E4M3\",\"shape\":[],\"data_offsets\":[27,28]}}   ",
                         28, &file);
  assert_non_null(t);
  assert_int_equal(zmi_tensors_count(t), 4);
  const char *const names[] = {"a.bytes", "none", "scalar", "z.weight"}; // in order of name
  for (size_t i = 0; i < 4; i++) {
    assert_string_equal(zmi_tensors_at(t, i)->name, names[i]);
    assert_ptr_equal(zmi_tensors_find(t, names[i]), zmi_tensors_at(t, i));
    assert_int_equal(zmi_tensors_at(t, i)->file, 0);
  }
  assert_null(zmi_tensors_at(t, 4));
  assert_null(zmi_tensors_find(t, "z"));
  assert_null(zmi_tensors_find(t, "__metadata__"));
  assert_int_equal(zm_last_status(), ZM_OK); // not to be there is no failure
  const zmi_tensor *z = zmi_tensors_find(t, "z.weight"), *scalar = zmi_tensors_find(t, "scalar"), *none = zmi_tensors_find(t, "none");
  assert_true(z->dtype == ZM_F32 && z->rank == 2 && z->shape[0] == 2 && z->shape[1] == 3 && z->bytes == 24);
  const uint8_t *data = zmi_tensors_find(t, "a.bytes")->data;
  assert_int_equal(data[0], 1);
  assert_ptr_equal(z->data, data + 3); // any alignment
  assert_true(scalar->dtype == ZM_U8 && scalar->rank == 0 && scalar->bytes == 1);
  assert_ptr_equal(scalar->data, data + 27);
  assert_true(none->dtype == ZM_BF16 && none->rank == 3 && none->bytes == 0);
  assert_string_equal(zmi_tensors_path(t, 0), "mem.safetensors");
  assert_string_equal(zmi_tensors_path(t, 1), "");
  zmi_tensors_drop(t, z); // not mapped: nothing happens
  assert_int_equal(z->data[0], (uint8_t)(3 * 37 + 1));
  zmi_tensors_close(t);
  free(file);
  zmi_tensors_close(NULL);
}

static void files_without_tensors(void **state) {
  (void)state;
  uint8_t *file;
  const char *const headers[] = {"{}", "{\"__metadata__\":{}}", "{}        "};
  for (size_t i = 0; i < ZMI_COUNT(headers); i++) {
    zmi_tensors *t = parse(headers[i], 0, &file);
    assert_non_null(t);
    assert_int_equal(zmi_tensors_count(t), 0);
    assert_null(zmi_tensors_find(t, ""));
    zmi_tensors_close(t);
    free(file);
  }
}

static void every_dtype(void **state) {
  (void)state;
  const struct {
    const char *name;
    zm_dtype dtype;
    size_t size;
  } rows[] = {
    {"BOOL", ZM_BOOL, 1}, {"U8", ZM_U8, 1},   {"U16", ZM_U16, 2},     {"U32", ZM_U32, 4},     {"U64", ZM_U64, 8},
    {"I8", ZM_I8, 1},     {"I16", ZM_I16, 2}, {"I32", ZM_I32, 4},     {"I64", ZM_I64, 8},     {"F16", ZM_F16, 2},
    {"BF16", ZM_BF16, 2}, {"F32", ZM_F32, 4}, {"F8_E4M3", ZM_U8, 1},  {"F8_E5M2", ZM_U8, 1},  {"F8_E8M0", ZM_U8, 1},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    char header[200];
    uint8_t *file;
    snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[5],\"data_offsets\":[0,%zu]}}", rows[i].name, 5 * rows[i].size);
    zmi_tensors *t = parse(header, 5 * rows[i].size, &file);
    assert_non_null(t);
    assert_int_equal(zmi_tensors_at(t, 0)->dtype, rows[i].dtype);
    zmi_tensors_close(t);
    free(file);
  }
}

// ---- damaged files ----

static void truncated_files(void **state) {
  (void)state;
  size_t size;
  uint8_t *file = file_of("{\"x\":{\"dtype\":\"I32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, &size);
  for (size_t kept = 0; kept < size; kept++) { // at every byte
    uint8_t *part = malloc(kept ? kept : 1);
    memcpy(part, file, kept);
    zmi_error_clear();
    zmi_tensors *t = zmi_tensors_parse(part, kept, "cut.safetensors");
    assert_null(t);
    assert_int_equal(zm_last_status(), ZM_ERROR_FORMAT);
    assert_memory_equal(zm_last_error(), "cut.safetensors: ", 17);
    assert_non_null(strstr(zm_last_error(), "truncated"));
    free(part);
  }
  assert_null(zmi_tensors_parse(NULL, 0, "cut.safetensors"));
  free(file);
}

static void lying_header_sizes(void **state) {
  (void)state;
  const struct {
    uint64_t size;
    const char *reason;
  } rows[] = {{0, "does not start with '{'"},     {1, "not valid JSON"},           {55, "truncated"},
              {100000000, "truncated"},           {100000001, "beyond the limit"}, {UINT64_MAX, "beyond the limit"},
              {UINT64_MAX - 7, "beyond the limit"}, {(uint64_t)1 << 63, "beyond the limit"}};
  size_t size;
  uint8_t *file = file_of("{\"x\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, &size);
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    for (size_t b = 0; b < 8; b++) file[b] = (uint8_t)(rows[i].size >> (8 * b));
    assert_null(zmi_tensors_parse(file, size, "x"));
    assert_non_null(strstr(zm_last_error(), rows[i].reason));
  }
  free(file);
  const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n";
  assert_null(zmi_tensors_parse((const uint8_t *)pointer, sizeof pointer - 1, "x"));
  assert_non_null(strstr(zm_last_error(), "Git LFS"));
}

static void broken_json(void **state) {
  (void)state;
  expect_refused("", 0, "does not start with '{'");
  expect_refused("[]", 0, "does not start with '{'");
  expect_refused(" {}", 0, "does not start with '{'");
  expect_refused("{", 0, "not valid JSON");
  expect_refused("{} x", 0, "not valid JSON");
  expect_refused("{\"a\":1,}", 0, "not valid JSON");
  expect_refused("{\"\xFF\":{}}", 0, "not valid JSON");
  expect_refused("{\"a\\u0000\":{}}", 0, "not valid JSON");
  expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[1e999],\"data_offsets\":[0,1]}}", 1, "not valid JSON");
  expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[99999999999999999999],\"data_offsets\":[0,1]}}", 1, "not valid JSON");
  expect_refused("{\"x\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]},"
                 "\"x\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,2]}}", 2, "duplicate object key");
  char deep[8000] = "{\"x\":";
  memset(deep + 5, '[', 6000);
  deep[6005] = 0;
  expect_refused(deep, 0, "not valid JSON");
}

static void wrong_entries(void **state) {
  (void)state;
  const struct {
    const char *entry;
    size_t data;
    const char *reason;
  } rows[] = {
    {"5", 0, "not an object"},
    {"{\"shape\":[],\"data_offsets\":[0,1]}", 1, "no \"dtype\""},
    {"{\"dtype\":5,\"shape\":[],\"data_offsets\":[0,1]}", 1, "no \"dtype\""},
    {"{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}", 8, "dtype \"F64\" is not known"},
    {"{\"dtype\":\"u8\",\"shape\":[],\"data_offsets\":[0,1]}", 1, "dtype \"u8\" is not known"},
    {"{\"dtype\":\"\\u001b[2J\\n\",\"shape\":[],\"data_offsets\":[0,1]}", 1, "dtype \"?[2J?\" is not known"},
    {"{\"dtype\":\"U8\",\"data_offsets\":[0,1]}", 1, "no \"shape\""},
    {"{\"dtype\":\"U8\",\"shape\":3,\"data_offsets\":[0,3]}", 3, "no \"shape\""},
    {"{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}", 1, "9 dims, at most 8"},
    {"{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2]}", 2, "dim 0 of its shape is not a whole number"},
    {"{\"dtype\":\"U8\",\"shape\":[1,\"2\"],\"data_offsets\":[0,2]}", 2, "dim 1 of its shape is not a whole number"},
    {"{\"dtype\":\"U8\",\"shape\":[true],\"data_offsets\":[0,1]}", 1, "not a whole number"},
    {"{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}", 1, "negative (-1)"},
    {"{\"dtype\":\"U8\",\"shape\":[-2,-2],\"data_offsets\":[0,4]}", 4, "negative (-2)"},
    {"{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}", 0, "more than can be addressed"},
    {"{\"dtype\":\"U64\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}", 0, "more than can be addressed"},
    {"{\"dtype\":\"U8\",\"shape\":[0,4294967296,4294967296],\"data_offsets\":[0,0]}", 0, "more than can be addressed"},
    {"{\"dtype\":\"U8\",\"shape\":[9223372036854775807],\"data_offsets\":[0,0]}", 0, "9223372036854775807 bytes, its data_offsets say 0"},
    {"{\"dtype\":\"U8\",\"shape\":[]}", 1, "no \"data_offsets\""},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":1}", 1, "no \"data_offsets\""},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0]}", 1, "no \"data_offsets\""},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1,2]}", 2, "no \"data_offsets\""},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0.0,1]}", 1, "number 0 of its data_offsets"},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,\"1\"]}", 1, "number 1 of its data_offsets"},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[-1,0]}", 1, "number 0 of its data_offsets"},
    {"{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[1,0]}", 1, "begins at byte 1, after its end at 0"},
    {"{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}", 1, "ends at byte 2, but the file has only 1"},
    {"{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9223372036854775806,9223372036854775807]}", 1, "ends at byte 9223372036854775807"},
    {"{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,2]}", 4, "need 3 bytes, its data_offsets say 2"},
    {"{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}", 4, "need 0 bytes, its data_offsets say 4"},
    {"{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,2]}", 4, "need 4 bytes, its data_offsets say 2"},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    char header[400];
    snprintf(header, sizeof header, "{\"layer.%zu\":%s}", i, rows[i].entry);
    expect_refused(header, rows[i].data, rows[i].reason);
    snprintf(header, sizeof header, "tensor \"layer.%zu\": ", i);
    assert_non_null(strstr(zm_last_error(), header));
  }
  expect_refused("{\"__metadata__\":[]}", 0, "__metadata__");
}

static void overlapping_tensors(void **state) {
  (void)state;
  const int rows[][4] = {{0, 4, 0, 4}, {0, 4, 3, 5}, {0, 8, 2, 3}, {2, 3, 0, 8}, {4, 8, 0, 5}};
  char header[300];
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    const int *r = rows[i];
    snprintf(header, sizeof header,
             "{\"a\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]},"
             "\"b\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}}",
             r[1] - r[0], r[0], r[1], r[3] - r[2], r[2], r[3]);
    expect_refused(header, 8, "overlaps");
  }
  // Three, of which the outer two overlap, with an empty one between; and neighbours and empty ones that do not overlap.
  expect_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"
                 "\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]},"
                 "\"c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[4,6]}}", 8,
                 "tensor \"c\": its data overlaps that of \"a\" (bytes 4 to 5)");
  uint8_t *file;
  zmi_tensors *t = parse("{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]},"
                         "\"e\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[2,2]},"
                         "\"c\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[5,7]}}", 8, &file);
  assert_non_null(t);
  zmi_tensors_close(t);
  free(file);
}

static void long_names_leave_room_for_the_reason(void **state) {
  (void)state;
  char *header = malloc(20000);
  strcpy(header, "{\"");
  for (int i = 0; i < 4000; i++) strcat(header, "\xC3\xA4");
  strcat(header, "\\n\":{\"dtype\":\"X\"}}");
  expect_refused(header, 0, "dtype \"X\" is not known");
  assert_non_null(strstr(zm_last_error(), "\xC3\xA4...\""));
  free(header);
}

// Random damage to a valid header: refused with a sentence, or everything lies inside the file.
static void random_damage(void **state) {
  (void)state;
  static const char header[] = "{\"__metadata__\":{\"format\":\"mlx\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},"
                               "\"b\":{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[24,32]}}";
  static const char alphabet[] = "0123456789,:[]{}\"-.eabF \\";
  int refused = 0, accepted = 0;
  for (int round = 0; round < 20000; round++) {
    size_t size;
    uint8_t *file = file_of(header, 32, &size);
    for (uint64_t n = 1 + random_below(3); n > 0; n--) {
      size_t at = random_below(20) == 0 ? random_below(8) : 8 + random_below(sizeof header - 1);
      file[at] = random_below(4) == 0 ? (uint8_t)random_below(256) : (uint8_t)alphabet[random_below(sizeof alphabet - 1)];
    }
    zmi_error_clear();
    zmi_tensors *t = zmi_tensors_parse(file, size, "random");
    if (t) {
      for (size_t i = 0; i < zmi_tensors_count(t); i++) {
        const zmi_tensor *x = zmi_tensors_at(t, i);
        assert_true(x->data >= file && x->bytes <= size && x->data + x->bytes <= file + size);
      }
      accepted++;
    } else {
      assert_int_equal(zm_last_status(), ZM_ERROR_FORMAT);
      assert_memory_equal(zm_last_error(), "random: ", 8);
      refused++;
    }
    zmi_tensors_close(t);
    free(file);
  }
  assert_true(refused > 1000 && accepted > 100); // both ways were taken
}

// ---- files and folders ----

static int make_folder(void **state) {
  temp_folder *t = malloc(sizeof *t);
  *state = t;
  return t ? temp_make(t) : -1;
}

static int remove_folder(void **state) {
  temp_remove(*state);
  free(*state);
  return 0;
}

// A shard with one tensor of four bytes of the given value for each name (up to a NULL).
static void put_shard(const char *path, const char *const *names, uint8_t value) {
  zmi_tensor tensors[8] = {0};
  size_t count = 0;
  for (; names[count]; count++) tensors[count] = (zmi_tensor){.name = names[count], .dtype = ZM_I32, .rank = 1, .shape = {1}, .bytes = 4};
  zmi_tensors_writer *w = zmi_tensors_writer_open(path, count, tensors);
  assert_non_null(w);
  const uint8_t data[4] = {value, value, value, value};
  for (size_t i = 0; i < count; i++) assert_int_equal(zmi_tensors_writer_write(w, data, 4), ZM_OK);
  assert_int_equal(zmi_tensors_writer_publish(w), ZM_OK);
}

static void put_text(temp_folder *t, const char *name, const char *text) {
  assert_int_equal(temp_write(temp_path(t, name), text, strlen(text)), 0);
}

static const char index_name[] = "model.safetensors.index.json";

static void expect_unopened(const char *path, zm_status status, const char *place, const char *reason) {
  zmi_error_clear();
  zmi_tensors *t = zmi_tensors_open(path);
  if (t || !strstr(zm_last_error(), reason)) print_error("expected: %s\nmessage: %s\n", reason, zm_last_error());
  assert_null(t);
  assert_int_equal(zm_last_status(), status);
  assert_non_null(strstr(zm_last_error(), place));
  assert_non_null(strstr(zm_last_error(), reason));
}

static void shards_of_a_folder(void **state) {
  temp_folder *t = *state;
  put_shard(temp_path(t, "s1.safetensors"), (const char *const[]){"b", "d", NULL}, 1);
  put_shard(temp_path(t, "s2.safetensors"), (const char *const[]){"a", "c", NULL}, 2);
  put_text(t, index_name, "{\"metadata\":{\"total_size\":16},\"weight_map\":{\"a\":\"s2.safetensors\",\"b\":\"s1.safetensors\","
                          "\"c\":\"s2.safetensors\",\"d\":\"s1.safetensors\"}}");
  zmi_tensors *all = zmi_tensors_open(t->path);
  assert_non_null(all);
  assert_int_equal(zmi_tensors_count(all), 4);
  for (size_t i = 0; i < 4; i++) {
    const zmi_tensor *x = zmi_tensors_at(all, i);
    assert_string_equal(x->name, ((const char *const[]){"a", "b", "c", "d"})[i]);
    assert_int_equal(x->data[0], i % 2 ? 1 : 2);
    assert_non_null(strstr(zmi_tensors_path(all, x->file), i % 2 ? "s1.safetensors" : "s2.safetensors"));
    zmi_tensors_drop(all, x);
    assert_int_equal(x->data[3], i % 2 ? 1 : 2); // still there when it is needed again
  }
  zmi_tensors_close(all);
  put_shard(temp_path(t, "model.safetensors"), (const char *const[]){"only", NULL}, 3); // the single file comes first
  all = zmi_tensors_open(t->path);
  assert_non_null(all);
  assert_int_equal(zmi_tensors_count(all), 1);
  zmi_tensors_close(all);
}

static void damaged_shards(void **state) {
  temp_folder *t = *state;
  expect_unopened(t->path, ZM_ERROR_FILE, t->path, "neither model.safetensors nor");
  put_shard(temp_path(t, "s1"), (const char *const[]){"a", NULL}, 1);
  put_shard(temp_path(t, "s2"), (const char *const[]){"b", "a", NULL}, 2);
  const struct {
    const char *index, *reason;
    zm_status status;
  } rows[] = {
    {"", "not valid JSON", ZM_ERROR_FORMAT},
    {"[]", "not a JSON object", ZM_ERROR_FORMAT},
    {"{}", "no \"weight_map\"", ZM_ERROR_FORMAT},
    {"{\"weight_map\":[]}", "no \"weight_map\"", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{}}", "no \"weight_map\"", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":1}}", "shard of tensor \"a\" is not a text", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"\"}}", "not the name of a file", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"..\"}}", "not the name of a file", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"../s1\"}}", "not the name of a file", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"s1\",\"a\":\"s1\"}}", "duplicate object key", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"s1\",\"b\":\"s3\"}}", "shard s3 is missing", ZM_ERROR_FILE},
    {"{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\"}}", "tensor \"a\": it is also in", ZM_ERROR_FORMAT},
    {"{\"weight_map\":{\"a\":\"s1\",\"c\":\"s1\"}}", "tensor \"c\" is not in", ZM_ERROR_FORMAT},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    put_text(t, index_name, rows[i].index);
    expect_unopened(t->path, rows[i].status, t->path, rows[i].reason);
  }
  put_shard(temp_path(t, "s2"), (const char *const[]){"b", NULL}, 2);
  put_text(t, index_name, "{\"weight_map\":{\"a\":\"s2\",\"b\":\"s1\"}}"); // exchanged
  expect_unopened(t->path, ZM_ERROR_FORMAT, index_name, "as the index says");
  put_text(t, "s2", "cut");
  expect_unopened(t->path, ZM_ERROR_FORMAT, "s2", "truncated");
  put_text(t, "model.safetensors", "");
  expect_unopened(t->path, ZM_ERROR_FORMAT, "model.safetensors: ", "truncated");
  expect_unopened(temp_path(t, "missing"), ZM_ERROR_FILE, "missing", "no such file");
  expect_unopened("/dev/null", ZM_ERROR_FILE, "/dev/null", "device");
}

// ---- writing ----

enum { MOST_TENSORS = 12 };

typedef struct set {
  zmi_tensor tensors[MOST_TENSORS];
  char names[MOST_TENSORS][40];
  uint8_t *data;
  size_t count, total;
} set;

static void random_set(set *s) {
  static const char *const pieces[] = {"model", ".layers.", "weight", "\"",       "\\",              "\n",
                                       "\x7F",  "/",        " ",      "\xC3\xA4", "\xF0\x9F\x98\x80", "0"};
  memset(s, 0, sizeof *s);
  s->count = random_below(MOST_TENSORS + 1);
  for (size_t i = 0; i < s->count; i++) {
    zmi_tensor *t = &s->tensors[i];
    size_t used = (size_t)snprintf(s->names[i], sizeof s->names[i], "%zu", i); // names differ
    for (uint64_t n = random_below(5); n > 0; n--) {
      const char *piece = pieces[random_below(ZMI_COUNT(pieces))];
      if (used + strlen(piece) < sizeof s->names[i]) strcpy(s->names[i] + used, piece), used += strlen(piece);
    }
    t->name = s->names[i];
    t->dtype = (zm_dtype)(1 + random_below(ZM_DTYPE_COUNT - 1));
    t->rank = (int)random_below(ZM_MAX_RANK + 1);
    t->bytes = zm_dtype_size(t->dtype);
    for (int d = 0; d < t->rank; d++) {
      t->shape[d] = (int64_t)random_below(t->rank > 4 ? 3 : 6);
      t->bytes *= (size_t)t->shape[d];
    }
    s->total += t->bytes;
  }
  s->data = malloc(s->total ? s->total : 1);
  for (size_t i = 0; i < s->total; i++) s->data[i] = (uint8_t)random_below(256);
}

static void written_is_read_back(void **state) {
  temp_folder *t = *state;
  for (int round = 0; round < 300; round++) {
    set s;
    random_set(&s);
    zmi_tensors_writer *w = zmi_tensors_writer_open(temp_path(t, "x.safetensors"), s.count, s.tensors);
    assert_non_null(w);
    for (size_t done = 0; done < s.total;) { // in pieces that know nothing of tensors
      size_t size = 1 + random_below(s.total - done);
      assert_int_equal(zmi_tensors_writer_write(w, s.data + done, size), ZM_OK);
      done += size;
    }
    assert_int_equal(zmi_tensors_writer_publish(w), ZM_OK);
    zmi_tensors *all = zmi_tensors_open(temp_path(t, "x.safetensors"));
    if (!all) print_error("%s\n", zm_last_error());
    assert_non_null(all);
    assert_int_equal(zmi_tensors_count(all), s.count);
    size_t offset = 0;
    for (size_t i = 0; i < s.count; i++) {
      const zmi_tensor *x = zmi_tensors_find(all, s.names[i]);
      assert_non_null(x);
      assert_true(x->dtype == s.tensors[i].dtype && x->rank == s.tensors[i].rank && x->bytes == s.tensors[i].bytes);
      assert_memory_equal(x->shape, s.tensors[i].shape, sizeof x->shape);
      assert_memory_equal(x->data, s.data + offset, x->bytes);
      offset += x->bytes;
    }
    for (size_t i = 1; i < s.count; i++) assert_true(strcmp(zmi_tensors_at(all, i - 1)->name, zmi_tensors_at(all, i)->name) < 0);
    zmi_tensors_close(all);
    free(s.data);
  }
  assert_int_equal(temp_count(t), 1);
}

static void form_of_a_written_file(void **state) {
  temp_folder *t = *state;
  put_shard(temp_path(t, "x"), (const char *const[]){"a\"b", NULL}, 7);
  char *data;
  size_t size;
  assert_int_equal(zmi_read_file(temp_path(t, "x"), 1000, &data, &size), ZM_OK);
  const char header[] = "{\"__metadata__\":{\"format\":\"mlx\"},\"a\\\"b\":{\"dtype\":\"I32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
  assert_memory_equal(data + 8, header, sizeof header - 1);
  assert_int_equal((unsigned char)data[0] % 8, 0); // padded with spaces
  assert_int_equal(size, 8 + (unsigned char)data[0] + 4);
  assert_memory_equal(data + size - 4, "\7\7\7\7", 4);
  zmi_free(data);
}

static void wrong_tensors_are_not_written(void **state) {
  temp_folder *t = *state;
  const struct {
    zmi_tensor tensor;
    const char *reason;
  } rows[] = {
    {{.name = NULL, .dtype = ZM_U8, .bytes = 1}, "needs a name"},
    {{.name = "__metadata__", .dtype = ZM_U8, .bytes = 1}, "needs a name"},
    {{.name = "same", .dtype = ZM_U8, .bytes = 1}, "two tensors have the name \"same\""},
    {{.name = "x", .dtype = ZM_DTYPE_DEFAULT, .bytes = 1}, "is not a dtype"},
    {{.name = "x", .dtype = ZM_DTYPE_COUNT, .bytes = 1}, "is not a dtype"},
    {{.name = "x", .dtype = ZM_U8, .rank = -1, .bytes = 1}, "rank -1"},
    {{.name = "x", .dtype = ZM_U8, .rank = 9, .bytes = 1}, "rank 9"},
    {{.name = "x", .dtype = ZM_U8, .rank = 1, .shape = {-1}, .bytes = 1}, "negative dim"},
    {{.name = "x", .dtype = ZM_U8, .rank = 2, .shape = {INT64_MAX, 4}, .bytes = 1}, "more elements than can be addressed"},
    {{.name = "x", .dtype = ZM_U8, .rank = 1, .shape = {INT64_MAX}, .bytes = INT64_MAX}, "more elements than can be addressed"},
    {{.name = "x", .dtype = ZM_F32, .rank = 1, .shape = {2}, .bytes = 2}, "need 8 bytes, it says 2"},
    {{.name = "\xFF", .dtype = ZM_U8, .bytes = 1}, "not valid UTF-8 at its byte 0"},
    {{.name = "ab\xED\xA0\x80", .dtype = ZM_U8, .bytes = 1}, "not valid UTF-8 at its byte 2"},
    {{.name = "a\xC0\x80", .dtype = ZM_U8, .bytes = 1}, "not valid UTF-8 at its byte 1"},
    {{.name = "\xF0\x9F\x98", .dtype = ZM_U8, .bytes = 1}, "not valid UTF-8 at its byte 0"},
  };
  for (size_t i = 0; i < ZMI_COUNT(rows); i++) {
    zmi_tensor pair[2] = {{.name = "same", .dtype = ZM_U8, .bytes = 1}, rows[i].tensor};
    zmi_error_clear();
    assert_null(zmi_tensors_writer_open(temp_path(t, "x"), 2, pair));
    assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
    if (!strstr(zm_last_error(), rows[i].reason)) print_error("expected %s: %s\n", rows[i].reason, zm_last_error());
    assert_non_null(strstr(zm_last_error(), rows[i].reason));
    assert_memory_equal(zm_last_error(), t->path, strlen(t->path));
  }
  assert_int_equal(temp_count(t), 0);
}

static void too_few_or_too_many_bytes(void **state) {
  temp_folder *t = *state;
  const zmi_tensor x = {.name = "x", .dtype = ZM_U8, .rank = 1, .shape = {10}, .bytes = 10};
  put_text(t, "x", "old");
  zmi_tensors_writer *w = zmi_tensors_writer_open(temp_path(t, "x"), 1, &x);
  assert_int_equal(zmi_tensors_writer_write(w, "123456789", 9), ZM_OK);
  assert_int_equal(zmi_tensors_writer_write(w, "01", 2), ZM_ERROR_ARGUMENT); // one too many: not written
  assert_int_equal(zmi_tensors_writer_publish(w), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "1 bytes of its tensors were not written"));
  w = zmi_tensors_writer_open(temp_path(t, "x"), 1, &x);
  zmi_tensors_writer_abandon(w);
  zmi_tensors_writer_abandon(NULL);
  char *data;
  size_t size;
  assert_int_equal(zmi_read_file(temp_path(t, "x"), 100, &data, &size), ZM_OK);
  assert_string_equal(data, "old");
  zmi_free(data);
  assert_int_equal(temp_count(t), 1);
}

static zm_status write_large(const char *path, size_t bytes) {
  const zmi_tensor x = {.name = "x", .dtype = ZM_U8, .rank = 1, .shape = {(int64_t)bytes}, .bytes = bytes};
  zmi_tensors_writer *w = zmi_tensors_writer_open(path, 1, &x);
  if (!w) return zm_last_status();
  void *data = calloc(1, bytes);
  zm_status status = zmi_tensors_writer_write(w, data, bytes);
  free(data);
  if (status == ZM_OK) return zmi_tensors_writer_publish(w);
  zmi_tensors_writer_abandon(w);
  return status;
}

static void disk_full(void **state) {
  temp_folder *t = *state;
  assert_int_equal(write_large("/dev/full", 100), ZM_ERROR_FILE);
  assert_non_null(strstr(zm_last_error(), "the disk is full"));
  assert_int_equal(write_large("/dev/full", 1 << 20), ZM_ERROR_FILE);
  put_text(t, "x", "old");
  struct rlimit before, low;
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = before;
  low.rlim_cur = 300000;
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
  zm_status at_write = write_large(temp_path(t, "x"), 1 << 20);
  low.rlim_cur = 10; // inside the buffered header: noticed when publishing
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
  zm_status at_publish = write_large(temp_path(t, "x"), 100);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(at_write, ZM_ERROR_FILE);
  assert_int_equal(at_publish, ZM_ERROR_FILE);
  assert_int_equal(temp_count(t), 1);
  struct stat st;
  assert_int_equal(stat(temp_path(t, "x"), &st), 0);
  assert_int_equal(st.st_size, 3); // the old one
}

static void unwritable_folder(void **state) {
  temp_folder *t = *state;
  assert_int_equal(write_large(temp_path(t, "missing/x"), 10), ZM_ERROR_FILE);
  assert_non_null(strstr(zm_last_error(), "missing/x: no such file or folder"));
  assert_int_equal(write_large("/proc/x", 10), ZM_ERROR_FILE);
  assert_int_equal(write_large(t->path, 10), ZM_ERROR_FILE);
  assert_int_equal(temp_count(t), 0);
}

static void interrupted_writer_leaves_nothing(void **state) {
  temp_folder *t = *state;
  const zmi_tensor x = {.name = "x", .dtype = ZM_U8, .rank = 1, .shape = {4 << 20}, .bytes = 4 << 20};
  zmi_tensors_writer *probe = zmi_tensors_writer_open(temp_path(t, "x"), 1, &x);
  bool nameless = temp_count(t) == 0;
  zmi_tensors_writer_abandon(probe);
  if (!nameless) skip(); // the file system knows no files without names
  pid_t child = fork();
  if (child == 0) {
    static uint8_t data[1 << 20];
    zmi_tensors_writer *w = zmi_tensors_writer_open(temp_path(t, "x"), 1, &x);
    for (int i = 0; w && i < 3; i++) zmi_tensors_writer_write(w, data, sizeof data);
    kill(getpid(), SIGKILL);
  }
  int status;
  assert_true(child > 0);
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(temp_count(t), 0);
}

// ---- allocations ----

typedef zm_status (*attempt_fn)(temp_folder *t);

static zm_status attempt_parse(temp_folder *t) {
  (void)t;
  uint8_t *file;
  zmi_tensors *all = parse("{\"__metadata__\":{},\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                           "\"b\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[2,6]}}", 6, &file);
  zmi_tensors_close(all);
  free(file);
  return all ? ZM_OK : zm_last_status();
}

static zm_status attempt_open(temp_folder *t) {
  zmi_tensors *all = zmi_tensors_open(t->path);
  if (!all) return zm_last_status();
  assert_int_equal(zmi_tensors_count(all), 3);
  zmi_tensors_close(all);
  return ZM_OK;
}

static zm_status attempt_write(temp_folder *t) {
  zm_status status = write_large(temp_path(t, "out"), 1000);
  if (status == ZM_OK) assert_int_equal(unlink(temp_path(t, "out")), 0);
  return status;
}

// Fails the first, the second, ... allocation until none is left to fail: always "out of memory", nothing left behind (leaks: ASan).
static uint64_t fail_each(temp_folder *t, attempt_fn attempt) {
  int files = temp_count(t);
  for (uint64_t n = 1;; n++) {
    uint64_t before = zmi_alloc_count();
    zmi_error_clear();
    zmi_alloc_fail_at(n);
    zm_status status = attempt(t);
    zmi_alloc_fail_at(0);
    assert_int_equal(temp_count(t), files);
    if (zmi_alloc_count() - before < n) {
      assert_int_equal(status, ZM_OK);
      return n - 1;
    }
    if (status != ZM_ERROR_MEMORY) print_error("allocation %llu: %s\n", (unsigned long long)n, zm_last_error());
    assert_int_equal(status, ZM_ERROR_MEMORY);
    assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  }
}

static void each_allocation_fails(void **state) {
  temp_folder *t = *state;
  json_malloc_t old_malloc;
  json_free_t old_free;
  put_shard(temp_path(t, "s1"), (const char *const[]){"a", "b", NULL}, 1);
  put_shard(temp_path(t, "s2"), (const char *const[]){"c", NULL}, 2);
  put_text(t, index_name, "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s1\",\"c\":\"s2\"}}");
  json_get_alloc_funcs(&old_malloc, &old_free);
  json_set_alloc_funcs(zmi_malloc, zmi_free); // the JSON library's allocations fail in turn too
  uint64_t in_parse = fail_each(t, attempt_parse), in_open = fail_each(t, attempt_open), in_write = fail_each(t, attempt_write);
  json_set_alloc_funcs(old_malloc, old_free);
  assert_true(in_parse > 20 && in_open > 60 && in_write > 5);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(valid_header),
    cmocka_unit_test(files_without_tensors),
    cmocka_unit_test(every_dtype),
    cmocka_unit_test(truncated_files),
    cmocka_unit_test(lying_header_sizes),
    cmocka_unit_test(broken_json),
    cmocka_unit_test(wrong_entries),
    cmocka_unit_test(overlapping_tensors),
    cmocka_unit_test(long_names_leave_room_for_the_reason),
    cmocka_unit_test(random_damage),
    IN_FOLDER(shards_of_a_folder),
    IN_FOLDER(damaged_shards),
    IN_FOLDER(written_is_read_back),
    IN_FOLDER(form_of_a_written_file),
    IN_FOLDER(wrong_tensors_are_not_written),
    IN_FOLDER(too_few_or_too_many_bytes),
    IN_FOLDER(disk_full),
    IN_FOLDER(unwritable_folder),
    IN_FOLDER(interrupted_writer_leaves_nothing),
    IN_FOLDER(each_allocation_fails),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
