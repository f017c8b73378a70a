// The base room without its pool: errors, memory, text, map, files, machine, environment.
#define _GNU_SOURCE 1
#include "base/base.h"
#include "temp.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

// Files without a name are not to be had on every file system: this open can refuse them, so that both ways of writing are tested.
static bool refuse_nameless;
int open(const char *path, int flags, ...) {
  va_list args;
  va_start(args, flags);
  mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(args, mode_t) : 0;
  va_end(args);
  if (refuse_nameless && (flags & O_TMPFILE) == O_TMPFILE) {
    errno = EOPNOTSUPP;
    return -1;
  }
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

static uint64_t random_state = 88172645463325252u;
static uint64_t random_next(void) { // xorshift64
  random_state ^= random_state << 13;
  random_state ^= random_state >> 7;
  return random_state ^= random_state << 17;
}

// ---- errors ----

static void error_says_what(void **state) {
  (void)state;
  zmi_error_clear();
  assert_string_equal(zm_last_error(), "");
  assert_int_equal(zm_last_status(), ZM_OK);
  assert_int_equal(zmi_fail(ZM_ERROR_FORMAT, "layer %d: %s", 3, "no"), ZM_ERROR_FORMAT);
  assert_string_equal(zm_last_error(), "layer 3: no");
  assert_int_equal(zmi_fail_within("model %s", "x"), ZM_ERROR_FORMAT);
  assert_string_equal(zm_last_error(), "model x: layer 3: no");
  assert_int_equal(zmi_fail(ZM_ERROR_FILE, "[%s]", zm_last_error()), ZM_ERROR_FILE); // the old message as an argument
  assert_string_equal(zm_last_error(), "[model x: layer 3: no]");
  assert_string_equal(zm_status_name(ZM_ERROR_MEMORY), "out of memory");
  assert_string_equal(zm_status_name((zm_status)99), "unknown status");
  zmi_error_clear();
  assert_int_not_equal(zmi_fail_within("alone"), ZM_OK);
}

static void error_is_cut_at_a_character(void **state) {
  (void)state;
  char text[3000];
  for (size_t lead = 0; lead < 4; lead++) { // 0 to 3 bytes move the cut over all places inside a character
    memset(text, 'x', lead);
    for (size_t i = lead; i + 4 < sizeof text; i += 4) memcpy(text + i, "\xF0\x9F\x98\x80", 5);
    zmi_fail(ZM_ERROR_FORMAT, "%s", text);
    size_t size = strlen(zm_last_error());
    assert_in_range(size, 1000, 1023);
    assert_string_equal(zm_last_error() + size - 3, "...");
    assert_int_equal((size - 3 - lead) % 4, 0);
    zmi_fail_within("prefix of it");
    assert_memory_equal(zm_last_error(), "prefix of it: x", lead ? 15 : 14);
    size = strlen(zm_last_error());
    assert_in_range(size, 1000, 1023);
    assert_string_equal(zm_last_error() + size - 3, "...");
    zmi_fail_within("%s", text); // the prefix alone is too long
    assert_in_range(strlen(zm_last_error()), 1000, 1023);
  }
}

static void *other_thread(void *arg) {
  (void)arg;
  if (zm_last_status() != ZM_OK || *zm_last_error()) return "not empty";
  zmi_fail(ZM_ERROR_LIMIT, "other");
  return NULL;
}

static void error_belongs_to_its_thread(void **state) {
  (void)state;
  pthread_t thread;
  void *result;
  zmi_fail(ZM_ERROR_FORMAT, "mine");
  assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
  pthread_join(thread, &result);
  assert_null(result);
  assert_string_equal(zm_last_error(), "mine");
}

// ---- memory ----

static void chosen_allocation_fails(void **state) {
  (void)state;
  void *p[4];
  uint64_t before = zmi_alloc_count();
  zmi_alloc_fail_at(3);
  p[0] = zmi_malloc(8), p[1] = zmi_calloc(2, 4), p[2] = zmi_realloc(NULL, 2, 4), p[3] = zmi_malloc(0);
  assert_non_null(p[0]);
  assert_non_null(p[1]);
  assert_null(p[2]);
  assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  assert_non_null(p[3]);
  assert_int_equal(zmi_alloc_count() - before, 4);
  zmi_alloc_fail_at(1);
  assert_null(zmi_block_alloc(100));
  zmi_alloc_fail_at(1);
  assert_null(zmi_strdup("x"));
  zmi_alloc_fail_at(1);
  zmi_alloc_fail_at(0);
  void *q = zmi_malloc(1);
  assert_non_null(q);
  zmi_free(q);
  for (int i = 0; i < 4; i++) zmi_free(p[i]);
}

static void sizes_that_overflow_fail(void **state) {
  (void)state;
  size_t n;
  const struct {
    size_t n, size;
  } bad[] = {{SIZE_MAX, 2}, {SIZE_MAX / 2 + 1, 2}, {(size_t)1 << 33, (size_t)1 << 33}};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    zmi_error_clear();
    assert_null(zmi_calloc(bad[i].n, bad[i].size));
    assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
    zmi_error_clear();
    assert_null(zmi_realloc(NULL, bad[i].n, bad[i].size));
    assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
    assert_true(zmi_mul_overflow(bad[i].n, bad[i].size, &n));
  }
  assert_null(zmi_block_alloc(SIZE_MAX));
  assert_null(zmi_block_alloc(SIZE_MAX - (64 << 10)));
  assert_true(zmi_add_overflow(SIZE_MAX, 1, &n));
  assert_false(zmi_add_overflow(SIZE_MAX - 1, 1, &n));
  assert_int_equal(n, SIZE_MAX);
}

static void blocks_are_zero_and_aligned(void **state) {
  (void)state;
  const size_t sizes[] = {0, 1, 63, 4096, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, (5 << 20) + 12345};
  for (size_t i = 0; i < ZMI_COUNT(sizes); i++) {
    uint8_t *p = zmi_block_alloc(sizes[i]);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % (sizes[i] >= 2 << 20 ? 2 << 20 : 64), 0);
    for (size_t j = 0; j < sizes[i]; j++) assert_true(p[j] == 0);
    memset(p, 0xAA, sizes[i]);
    zmi_block_free(p, sizes[i]);
  }
  zmi_block_free(NULL, 5);
}

static void arrays_grow(void **state) {
  (void)state;
  int64_t *p = NULL;
  size_t capacity = 0;
  for (size_t i = 0; i < 1000; i++) {
    assert_true(ZMI_GROW(p, capacity, i + 1));
    assert_true(capacity > i);
    p[i] = (int64_t)i;
  }
  for (size_t i = 0; i < 1000; i++) assert_int_equal(p[i], i);
  size_t before = capacity;
  assert_false(ZMI_GROW(p, capacity, SIZE_MAX / 4));
  assert_int_equal(capacity, before);
  zmi_free(p);
}

// ---- text ----

static void text_grows(void **state) {
  (void)state;
  zmi_text t = {0};
  assert_string_equal(zmi_text_str(&t), "");
  for (int i = 0; i < 2000; i++) zmi_text_add(&t, "%d,", i);
  assert_false(t.failed);
  assert_memory_equal(t.data, "0,1,2,3,", 8);
  assert_int_equal(strlen(t.data), t.size);
  char wide[1000];
  memset(wide, 'w', sizeof wide);
  wide[999] = 0;
  size_t before = t.size;
  zmi_text_add(&t, "<%s>", wide); // longer than any buffer on the way
  assert_int_equal(t.size, before + 1001);
  assert_string_equal(t.data + t.size - 3, "ww>");
  zmi_text_add_bytes(&t, "a\0b", 3);
  assert_memory_equal(t.data + t.size - 3, "a\0b", 4);
  zmi_text_release(&t);
  assert_null(t.data);
  assert_int_equal(t.size, 0);
}

static void text_remembers_failure(void **state) {
  (void)state;
  zmi_text t = {0};
  zmi_alloc_fail_at(1);
  zmi_text_add(&t, "one");
  assert_true(t.failed);
  assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  zmi_text_add(&t, "two");
  zmi_text_add_bytes(&t, "three", 5);
  assert_string_equal(zmi_text_str(&t), "");
  zmi_text_release(&t);
  zmi_text_add(&t, "start");
  zmi_text_add_bytes(&t, "", SIZE_MAX); // more than can be addressed; nothing is read
  assert_true(t.failed);
  assert_string_equal(zmi_text_str(&t), "start");
  zmi_text_release(&t);
}

// ---- map ----

static void map_keeps_what_was_put(void **state) {
  (void)state;
  enum { KEYS = 20000 };
  zmi_map *m = zmi_map_new();
  int64_t value;
  assert_non_null(m);
  assert_false(zmi_map_get(m, "x", 1, &value));
  for (int64_t i = 0; i < KEYS; i++) {
    char key[64];
    int size = snprintf(key, sizeof key, "%.*s%lld", (int)(i % 40), "model.layers.model.layers.model.layers.mo", (long long)i);
    assert_true(zmi_map_put(m, key, (size_t)size, i));
  }
  assert_true(zmi_map_put(m, "", 0, -1)); // the empty key, and keys with zeros in them
  assert_true(zmi_map_put(m, "\0", 1, -2));
  assert_true(zmi_map_put(m, "\0\0", 2, -3));
  assert_int_equal(zmi_map_size(m), KEYS + 3);
  for (int64_t i = 0; i < KEYS; i++) {
    char key[64];
    int size = snprintf(key, sizeof key, "%.*s%lld", (int)(i % 40), "model.layers.model.layers.model.layers.mo", (long long)i);
    assert_true(zmi_map_get(m, key, (size_t)size, &value));
    assert_int_equal(value, i);
    assert_true(zmi_map_put(m, key, (size_t)size, -i)); // replaces
    assert_true(zmi_map_get(m, key, (size_t)size, &value));
    assert_int_equal(value, -i);
  }
  assert_int_equal(zmi_map_size(m), KEYS + 3);
  assert_true(zmi_map_get(m, "", 0, &value));
  assert_int_equal(value, -1);
  assert_true(zmi_map_get(m, "\0", 1, &value));
  assert_int_equal(value, -2);
  assert_true(zmi_map_get(m, "\0\0", 2, NULL));
  assert_false(zmi_map_get(m, "\0\0\0", 3, &value));
  zmi_map_free(m);
  zmi_map_free(NULL);
}

static void map_survives_failed_allocations(void **state) {
  (void)state;
  zmi_alloc_fail_at(1);
  assert_null(zmi_map_new());
  zmi_map *m = zmi_map_new();
  char present[300] = {0};
  for (int i = 0; i < 300; i++) {
    char key[16];
    int size = snprintf(key, sizeof key, "key %d", i);
    zmi_alloc_fail_at(1 + random_next() % 2);
    present[i] = zmi_map_put(m, key, (size_t)size, i);
    if (!present[i]) assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
  }
  zmi_alloc_fail_at(0);
  int kept = 0;
  for (int i = 0; i < 300; i++) {
    char key[16];
    int64_t value = -1;
    int size = snprintf(key, sizeof key, "key %d", i);
    assert_int_equal(zmi_map_get(m, key, (size_t)size, &value), present[i]);
    if (present[i]) assert_int_equal(value, i);
    kept += present[i];
  }
  assert_int_equal(zmi_map_size(m), kept);
  assert_in_range(kept, 1, 299);
  zmi_map_free(m);
}

// ---- files ----

static int make_folder(void **state) {
  temp_folder *t = malloc(sizeof *t);
  *state = t;
  return t ? temp_make(t) : -1;
}

static int remove_folder(void **state) {
  refuse_nameless = false;
  temp_remove(*state);
  free(*state);
  return 0;
}

static void expect_content(const char *path, const char *content) {
  char *data;
  size_t size;
  assert_int_equal(zmi_read_file(path, 1 << 20, &data, &size), ZM_OK);
  assert_int_equal(size, strlen(content));
  assert_string_equal(data, content);
  zmi_free(data);
}

static void files_are_mapped(void **state) {
  temp_folder *t = *state;
  zmi_mapping m = {0};
  char content[10000];
  memset(content, 'm', sizeof content);
  assert_int_equal(temp_write(temp_path(t, "file"), content, sizeof content), 0);
  assert_int_equal(zmi_map_file(temp_path(t, "file"), &m), ZM_OK);
  assert_int_equal(m.size, sizeof content);
  assert_memory_equal(m.data, content, sizeof content);
  zmi_mapping_drop(&m, 0, SIZE_MAX);
  zmi_mapping_drop(&m, 5000, 100);
  zmi_mapping_drop(&m, 20000, 1);
  assert_memory_equal(m.data, content, sizeof content); // comes back from the file
  zmi_unmap_file(&m);
  assert_null(m.data);
  zmi_unmap_file(&m);
  assert_int_equal(temp_write(temp_path(t, "empty"), "", 0), 0);
  assert_int_equal(zmi_map_file(temp_path(t, "empty"), &m), ZM_OK);
  assert_null(m.data);
  assert_int_equal(m.size, 0);
  zmi_unmap_file(&m);
}

static void what_is_no_file_is_not_mapped(void **state) {
  temp_folder *t = *state;
  zmi_mapping m = {(const uint8_t *)"kept", 4};
  assert_int_equal(zmi_map_file(temp_path(t, "missing"), &m), ZM_ERROR_FILE);
  assert_non_null(strstr(zm_last_error(), "missing: no such file"));
  assert_int_equal(zmi_map_file(t->path, &m), ZM_ERROR_FILE);
  assert_non_null(strstr(zm_last_error(), "folder"));
  assert_int_equal(zmi_map_file("/dev/null", &m), ZM_ERROR_FILE);
  assert_int_equal(m.size, 4); // untouched
}

static void files_are_read_up_to_a_limit(void **state) {
  temp_folder *t = *state;
  char *data;
  size_t size;
  const char *path = temp_path(t, "file");
  assert_int_equal(temp_write(path, "12345", 5), 0);
  for (size_t limit = 5; limit < 8; limit++) {
    assert_int_equal(zmi_read_file(path, limit, &data, &size), ZM_OK);
    assert_int_equal(size, 5);
    assert_string_equal(data, "12345");
    zmi_free(data);
  }
  assert_int_equal(zmi_read_file(path, 4, &data, &size), ZM_ERROR_FORMAT);
  assert_int_equal(zmi_read_file(path, 0, &data, &size), ZM_ERROR_FORMAT);
  assert_int_equal(zmi_read_file("/dev/zero", 100000, &data, &size), ZM_ERROR_FORMAT); // no size to know before
  assert_int_equal(zmi_read_file("/dev/null", 0, &data, &size), ZM_OK);
  assert_int_equal(size, 0);
  assert_string_equal(data, "");
  zmi_free(data);
  assert_int_equal(zmi_read_file(t->path, 100, &data, &size), ZM_ERROR_FILE);
  assert_int_equal(zmi_read_file(temp_path(t, "missing"), 100, &data, &size), ZM_ERROR_FILE);
}

static void writer_publishes_at_the_end(void **state) {
  temp_folder *t = *state;
  for (int pass = 0; pass < 2; pass++) {
    refuse_nameless = pass == 1;
    char name[16];
    snprintf(name, sizeof name, "out%d", pass);
    const char *path = temp_path(t, name);
    zmi_writer *w = zmi_writer_open(path);
    assert_non_null(w);
    assert_int_equal(zmi_writer_write(w, "ab", 2), ZM_OK);
    assert_int_equal(zmi_writer_write(w, "", 0), ZM_OK);
    assert_false(zmi_path_exists(path));
    assert_int_equal(zmi_writer_publish(w), ZM_OK);
    expect_content(path, "ab");
    assert_int_equal(temp_count(t), pass + 1);
    assert_int_equal(chmod(path, 0640), 0);
    w = zmi_writer_open(path); // over an older one, whose permissions stay
    assert_int_equal(zmi_writer_write(w, "new", 3), ZM_OK);
    expect_content(path, "ab");
    assert_int_equal(zmi_writer_publish(w), ZM_OK);
    expect_content(path, "new");
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(temp_count(t), pass + 1);
  }
}

static void writer_takes_any_sizes(void **state) {
  temp_folder *t = *state;
  enum { TOTAL = 3 << 20 };
  uint8_t *content = zmi_malloc(TOTAL);
  for (size_t i = 0; i < TOTAL; i++) content[i] = (uint8_t)random_next();
  for (int pass = 0; pass < 4; pass++) {
    zmi_writer *w = zmi_writer_open(temp_path(t, "big"));
    for (size_t done = 0; done < TOTAL;) {
      size_t size = (size_t)(random_next() % (pass == 0 ? 1000 : 400000));
      size = ZMI_MIN(size, TOTAL - done);
      assert_int_equal(zmi_writer_write(w, content + done, size), ZM_OK);
      done += size;
    }
    assert_int_equal(zmi_writer_publish(w), ZM_OK);
    zmi_mapping m;
    assert_int_equal(zmi_map_file(temp_path(t, "big"), &m), ZM_OK);
    assert_int_equal(m.size, TOTAL);
    assert_memory_equal(m.data, content, TOTAL);
    zmi_unmap_file(&m);
  }
  zmi_free(content);
}

static void abandoned_writer_leaves_nothing(void **state) {
  temp_folder *t = *state;
  for (int pass = 0; pass < 2; pass++) {
    refuse_nameless = pass == 1;
    zmi_writer *w = zmi_writer_open(temp_path(t, "out"));
    assert_non_null(w);
    assert_int_equal(temp_count(t), pass); // a nameless file is not seen at all
    assert_int_equal(zmi_writer_write(w, "ab", 2), ZM_OK);
    zmi_writer_abandon(w);
    assert_int_equal(temp_count(t), 0);
  }
  zmi_writer_abandon(NULL);
}

static void killed_writer_leaves_nothing(void **state) {
  temp_folder *t = *state;
  assert_int_equal(temp_write(temp_path(t, "out"), "old", 3), 0);
  zmi_writer *probe = zmi_writer_open(temp_path(t, "out"));
  bool nameless = temp_count(t) == 1;
  zmi_writer_abandon(probe);
  if (!nameless) skip(); // the file system has no nameless files
  pid_t child = fork();
  if (child == 0) {
    static char data[1 << 20];
    zmi_writer *w = zmi_writer_open(temp_path(t, "out"));
    if (w) zmi_writer_write(w, data, sizeof data);
    kill(getpid(), SIGKILL);
  }
  int status;
  assert_true(child > 0);
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFSIGNALED(status));
  assert_int_equal(temp_count(t), 1);
  expect_content(temp_path(t, "out"), "old");
}

static void links_are_followed(void **state) {
  temp_folder *t = *state;
  assert_int_equal(temp_write(temp_path(t, "real"), "old", 3), 0);
  assert_int_equal(symlink("real", temp_path(t, "link")), 0);
  zmi_writer *w = zmi_writer_open(temp_path(t, "link"));
  assert_int_equal(zmi_writer_write(w, "new", 3), ZM_OK);
  assert_int_equal(zmi_writer_publish(w), ZM_OK);
  expect_content(temp_path(t, "real"), "new");
  struct stat st;
  assert_int_equal(lstat(temp_path(t, "link"), &st), 0);
  assert_true(S_ISLNK(st.st_mode));
}

static void two_writers_both_win(void **state) {
  temp_folder *t = *state;
  for (int pass = 0; pass < 2; pass++) {
    refuse_nameless = pass == 1;
    const char *path = temp_path(t, "out");
    zmi_writer *a = zmi_writer_open(path), *b = zmi_writer_open(path);
    assert_int_equal(zmi_writer_write(a, "aaa", 3), ZM_OK);
    assert_int_equal(zmi_writer_write(b, "b", 1), ZM_OK);
    assert_int_equal(zmi_writer_publish(a), ZM_OK);
    expect_content(path, "aaa");
    assert_int_equal(zmi_writer_publish(b), ZM_OK);
    expect_content(path, "b");
    assert_int_equal(temp_count(t), 1);
  }
}

static void places_that_cannot_be_written(void **state) {
  temp_folder *t = *state;
  assert_int_equal(temp_write(temp_path(t, "file"), "x", 1), 0);
  const char *const bad[] = {"", "/proc/zmlx-out", temp_path(t, "missing/out"), temp_path(t, "file/out"), t->path};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    zmi_error_clear();
    assert_null(zmi_writer_open(bad[i]));
    assert_int_not_equal(zm_last_status(), ZM_OK);
    assert_true(strlen(zm_last_error()) > 10);
  }
  assert_null(zmi_writer_open(NULL));
  assert_int_equal(temp_count(t), 1);
  if (geteuid() != 0) { // permissions do not bind root
    assert_int_equal(chmod(t->path, 0500), 0);
    assert_null(zmi_writer_open(temp_path(t, "out")));
    assert_non_null(strstr(zm_last_error(), "permission denied"));
    assert_int_equal(chmod(t->path, 0700), 0);
  }
}

static void full_device(void **state) {
  (void)state;
  zmi_writer *w = zmi_writer_open("/dev/full");
  assert_non_null(w);
  assert_int_equal(zmi_writer_write(w, "x", 1), ZM_OK); // buffered
  assert_int_equal(zmi_writer_publish(w), ZM_ERROR_FILE);
  assert_non_null(strstr(zm_last_error(), "/dev/full: the disk is full"));
  char *large = zmi_calloc(1, 1 << 20);
  w = zmi_writer_open("/dev/full");
  assert_int_equal(zmi_writer_write(w, large, 1 << 20), ZM_ERROR_FILE);
  assert_int_equal(zmi_writer_write(w, large, 1), ZM_ERROR_FILE);
  assert_int_equal(zmi_writer_publish(w), ZM_ERROR_FILE);
  zmi_free(large);
  struct stat st;
  assert_int_equal(stat("/dev/full", &st), 0); // still the device
  assert_true(S_ISCHR(st.st_mode));
}

static void file_size_limit(void **state) {
  temp_folder *t = *state;
  char *large = zmi_calloc(1, 1 << 20);
  struct rlimit before, low;
  assert_int_equal(temp_write(temp_path(t, "out"), "old", 3), 0);
  signal(SIGXFSZ, SIG_IGN);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = before;
  low.rlim_cur = 500000; // inside of a write: the first part still goes
  for (int pass = 0; pass < 2; pass++) {
    refuse_nameless = pass == 1;
    zmi_writer *w = zmi_writer_open(temp_path(t, "out"));
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    zm_status write_status = zmi_writer_write(w, large, 1 << 20), publish_status = zmi_writer_publish(w);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(write_status, ZM_ERROR_FILE);
    assert_int_equal(publish_status, ZM_ERROR_FILE);
    expect_content(temp_path(t, "out"), "old");
    assert_int_equal(temp_count(t), 1);
  }
  zmi_free(large);
}

static void each_allocation_of_files_fails(void **state) {
  temp_folder *t = *state;
  assert_int_equal(temp_write(temp_path(t, "in"), "12345", 5), 0);
  for (int pass = 0; pass < 2; pass++) {
    refuse_nameless = pass == 1;
    for (uint64_t n = 1;; n++) {
      char *data;
      size_t size;
      zmi_error_clear();
      uint64_t before = zmi_alloc_count();
      zmi_alloc_fail_at(n);
      zm_status status = zmi_read_file(temp_path(t, "in"), 100, &data, &size);
      if (status == ZM_OK) zmi_free(data);
      zmi_writer *w = status == ZM_OK ? zmi_writer_open(temp_path(t, "out")) : NULL;
      if (w) status = zmi_writer_write(w, "x", 1);
      if (w) status = zmi_writer_publish(w);
      zmi_alloc_fail_at(0);
      if (zmi_alloc_count() - before < n) {
        assert_true(w && status == ZM_OK);
        assert_true(n > 3);
        break;
      }
      assert_true(!w || status != ZM_OK);
      assert_int_equal(zm_last_status(), ZM_ERROR_MEMORY);
      assert_false(zmi_path_exists(temp_path(t, "out")));
      assert_int_equal(temp_count(t), 1);
    }
    assert_int_equal(unlink(temp_path(t, "out")), 0);
  }
}

static void paths_and_folders(void **state) {
  temp_folder *t = *state;
  const char *const joins[][3] = {{"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"/", "b", "/b"}, {"a", "", "a/"}};
  for (size_t i = 0; i < ZMI_COUNT(joins); i++) {
    char *joined = zmi_path_join(joins[i][0], joins[i][1]);
    assert_string_equal(joined, joins[i][2]);
    zmi_free(joined);
  }
  assert_int_equal(zmi_make_folder(temp_path(t, "new")), ZM_OK);
  assert_int_equal(zmi_make_folder(temp_path(t, "new")), ZM_OK);
  assert_true(zmi_path_is_folder(temp_path(t, "new")));
  assert_int_equal(temp_write(temp_path(t, "file"), "", 0), 0);
  assert_false(zmi_path_is_folder(temp_path(t, "file")));
  assert_true(zmi_path_exists(temp_path(t, "file")));
  assert_int_equal(zmi_make_folder(temp_path(t, "file")), ZM_ERROR_FILE);
  assert_int_equal(zmi_make_folder(temp_path(t, "no/parent")), ZM_ERROR_FILE);
  assert_int_equal(zmi_make_folder("/proc/no"), ZM_ERROR_FILE);
}

// ---- machine ----

static void put_file(temp_folder *t, const char *path, const char *content) {
  char *copy = strdup(path);
  for (char *slash = copy; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
    *slash = 0;
    assert_int_equal(zmi_make_folder(temp_path(t, copy)), ZM_OK);
  }
  free(copy);
  assert_int_equal(temp_write(temp_path(t, path), content, strlen(content)), 0);
}

static void memory_nodes_of_this_process(void **state) {
  temp_folder *t = *state;
  assert_true(zmi_memory_nodes(t->path) == 0);
  put_file(t, "sys/devices/system/node/has_memory", "0-1,3,5-6,70\n");
  put_file(t, "sys/devices/system/node/node0/cpulist", "0-8191\n");
  put_file(t, "sys/devices/system/node/node1/cpulist", "\n"); // memory alone
  put_file(t, "sys/devices/system/node/node2/cpulist", "0-8191\n"); // no memory
  put_file(t, "sys/devices/system/node/node3/cpulist", "8191,0-4000,4002-8190\n");
  put_file(t, "sys/devices/system/node/node5/cpulist", "9000-9100,-3,x\n"); // none that this process has
  put_file(t, "sys/devices/system/node/node6/cpulist", "0-99999999999999999999\n");
  assert_true(zmi_memory_nodes(t->path) == (1u << 0 | 1u << 3 | 1u << 6));
  // Blocks can be written wherever their pages lie.
  const size_t bytes = (size_t)5 << 20;
  unsigned char *block = zmi_block_alloc(bytes);
  assert_non_null(block);
  memset(block, 1, bytes);
  zmi_block_free(block, bytes);
}

static void no_groups_no_limits(void **state) {
  temp_folder *t = *state;
  zmi_limits l = zmi_group_limits(t->path);
  assert_true(l.cpus == 0 && !l.memory_limited && l.memory == 0 && l.memory_left == 0);
  put_file(t, "proc/self/cgroup", "0::/\nrubbish\n::\n5:cpu\n");
  l = zmi_group_limits(t->path);
  assert_true(l.cpus == 0 && !l.memory_limited);
  put_file(t, "sys/fs/cgroup/cpu.max", "max 100000\n");
  put_file(t, "sys/fs/cgroup/memory.max", "max\n");
  put_file(t, "sys/fs/cgroup/memory.current", "5\n");
  l = zmi_group_limits(t->path);
  assert_true(l.cpus == 0 && !l.memory_limited);
}

static void limits_of_groups_v2(void **state) {
  temp_folder *t = *state;
  put_file(t, "proc/self/cgroup", "0::/user/job\n");
  put_file(t, "sys/fs/cgroup/user/job/cpu.max", "800000 100000\n");
  put_file(t, "sys/fs/cgroup/user/cpu.max", "250000 100000\n"); // the group above is tighter
  put_file(t, "sys/fs/cgroup/user/job/memory.max", "1000000\n");
  put_file(t, "sys/fs/cgroup/user/job/memory.current", "700000\n");
  put_file(t, "sys/fs/cgroup/user/job/memory.stat", "anon 1\nactive_file 100000\ninactive_file 200000\n");
  zmi_limits l = zmi_group_limits(t->path);
  assert_true(l.cpus == 2.5);
  assert_true(l.memory_limited);
  assert_int_equal(l.memory, 1000000);
  assert_int_equal(l.memory_left, 600000);
  put_file(t, "sys/fs/cgroup/user/memory.max", "2000000\n"); // larger, but its neighbours have used it up
  put_file(t, "sys/fs/cgroup/user/memory.current", "2500000\n");
  l = zmi_group_limits(t->path);
  assert_int_equal(l.memory, 1000000);
  assert_int_equal(l.memory_left, 0);
}

static void limits_inside_a_container(void **state) {
  temp_folder *t = *state;
  put_file(t, "proc/self/cgroup", "0::/host/path/that/is/not/here\n");
  put_file(t, "sys/fs/cgroup/cpu.max", "150000 100000\n");
  assert_true(zmi_group_limits(t->path).cpus == 1.5);
}

static void limits_of_groups_v1(void **state) {
  temp_folder *t = *state;
  put_file(t, "proc/self/cgroup", "11:cpu,cpuacct:/docker/1\n7:memory:/docker/1\n1:name=systemd:/\n0::/\n");
  put_file(t, "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us", "300000\n");
  put_file(t, "sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us", "100000\n");
  put_file(t, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  put_file(t, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  put_file(t, "sys/fs/cgroup/memory/memory.usage_in_bytes", "123\n");
  zmi_limits l = zmi_group_limits(t->path);
  assert_true(l.cpus == 3.0);
  assert_false(l.memory_limited);
  put_file(t, "sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "5000\n");
  put_file(t, "sys/fs/cgroup/memory/docker/1/memory.usage_in_bytes", "4000\n");
  put_file(t, "sys/fs/cgroup/memory/docker/1/memory.stat", "inactive_file 9\ntotal_inactive_file 500\ntotal_active_file 100\n");
  l = zmi_group_limits(t->path);
  assert_true(l.memory_limited);
  assert_int_equal(l.memory, 5000);
  assert_int_equal(l.memory_left, 1600);
}

static void time_and_memory(void **state) {
  (void)state;
  double a = zmi_now(), b = zmi_now();
  assert_true(b >= a);
  uint64_t before = zmi_peak_memory();
  assert_true(before > 100 << 10);
  size_t size = 64 << 20;
  void *p = zmi_block_alloc(size);
  assert_non_null(p);
  memset(p, 1, size);
  uint64_t peak = zmi_peak_memory();
  assert_true(peak >= size && peak >= before);
  zmi_block_free(p, size);
  assert_true(zmi_peak_memory() >= size); // a peak does not fall (the kernel may be a few pages off)
  assert_true(zmi_memory_available() > 1 << 20);
  assert_true(zmi_cpu_count() >= 1);
}

static void environment_is_one_table(void **state) {
  (void)state;
  setenv("ZMLX_ISA", "scalar", 1);
  assert_string_equal(zmi_env("ZMLX_ISA"), "scalar");
  setenv("ZMLX_ISA", "", 1);
  assert_null(zmi_env("ZMLX_ISA"));
  unsetenv("ZMLX_ISA");
  assert_null(zmi_env("ZMLX_ISA"));
  assert_null(zmi_env("PATH")); // not in the table
  for (const zmi_env_var *v = zmi_env_table; v->name; v++) assert_true(strlen(v->meaning) > 10);
}

#define IN_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(error_says_what),
    cmocka_unit_test(error_is_cut_at_a_character),
    cmocka_unit_test(error_belongs_to_its_thread),
    cmocka_unit_test(chosen_allocation_fails),
    cmocka_unit_test(sizes_that_overflow_fail),
    cmocka_unit_test(blocks_are_zero_and_aligned),
    cmocka_unit_test(arrays_grow),
    cmocka_unit_test(text_grows),
    cmocka_unit_test(text_remembers_failure),
    cmocka_unit_test(map_keeps_what_was_put),
    cmocka_unit_test(map_survives_failed_allocations),
    IN_FOLDER(files_are_mapped),
    IN_FOLDER(what_is_no_file_is_not_mapped),
    IN_FOLDER(files_are_read_up_to_a_limit),
    IN_FOLDER(writer_publishes_at_the_end),
    IN_FOLDER(writer_takes_any_sizes),
    IN_FOLDER(abandoned_writer_leaves_nothing),
    IN_FOLDER(killed_writer_leaves_nothing),
    IN_FOLDER(links_are_followed),
    IN_FOLDER(two_writers_both_win),
    IN_FOLDER(places_that_cannot_be_written),
    cmocka_unit_test(full_device),
    IN_FOLDER(file_size_limit),
    IN_FOLDER(each_allocation_of_files_fails),
    IN_FOLDER(paths_and_folders),
    IN_FOLDER(memory_nodes_of_this_process),
    IN_FOLDER(no_groups_no_limits),
    IN_FOLDER(limits_of_groups_v2),
    IN_FOLDER(limits_inside_a_container),
    IN_FOLDER(limits_of_groups_v1),
    cmocka_unit_test(time_and_memory),
    cmocka_unit_test(environment_is_one_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
