// The disk cache of compiled kernels and the child process that compiles: what is damaged, foreign, too much, unwritable, failing, hanging,
// or done by many processes at once.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "kernel/cache.h"
#include "kernel/kernel.h"
#include "kernel_folder.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

// Of the one entry whose name ends in .so.
static char *entry_path(void) {
  char *kernels = zmi_path_join(folder.path, "kernels"), *found = NULL;
  DIR *d = opendir(kernels);
  for (struct dirent *f; d && (f = readdir(d)) != NULL;)
    if (strlen(f->d_name) > 3 && strcmp(f->d_name + strlen(f->d_name) - 3, ".so") == 0) {
      zmi_free(found);
      found = zmi_path_join(kernels, f->d_name);
    }
  if (d) closedir(d);
  zmi_free(kernels);
  return found;
}

static int answer_of(void *handle) {
  void *p = dlsym(handle, "answer");
  int (*answer)(void);
  assert_non_null(p);
  memcpy(&answer, &p, sizeof answer);
  return answer();
}

static int build(const char *source, const char *tier, bool only_cached, char note[512], bool *cached) {
  void *handle = zmi_compile_c("answer", source, tier, only_cached, note, cached);
  int result = handle ? answer_of(handle) : -1;
  zmi_compile_unload(handle);
  return result;
}

static const char source_42[] = "int answer(void) { return 42; }\n", source_43[] = "int answer(void) { return 43; }\n";

static void hashes(void **state) {
  (void)state;
  static const struct {
    const char *text, *digest; // FIPS 180-4
  } cases[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
  };
  for (size_t i = 0; i < ZMI_COUNT(cases); i++)
    for (size_t step = 1; step < 70; step += 17) {
      zmi_sha256 h;
      uint8_t digest[32];
      char hex[65];
      zmi_sha256_start(&h);
      for (size_t at = 0, n = strlen(cases[i].text); at < n; at += step) zmi_sha256_add(&h, cases[i].text + at, ZMI_MIN(step, n - at));
      zmi_sha256_end(&h, digest);
      for (int k = 0; k < 32; k++) snprintf(hex + 2 * k, 3, "%02x", digest[k]);
      assert_string_equal(hex, cases[i].digest);
    }
}

static void compiled_once(void **state) {
  (void)state;
  char note[512];
  bool cached = true;
  assert_int_equal(build(source_42, "scalar", true, note, &cached), -1);
  assert_string_equal(note, "");
  assert_int_equal(build(source_42, "scalar", false, note, &cached), 42);
  assert_false(cached);
  assert_int_equal(build(source_42, "scalar", true, note, &cached), 42);
  assert_true(cached);
  assert_int_equal(build(source_43, "scalar", true, note, &cached), -1); // other source, other entry
  assert_int_equal(build(source_42, "avx2", true, note, &cached), -1);   // other flags
  assert_int_equal(build(source_42, "vliw", false, note, &cached), -1);
  assert_non_null(strstr(note, "vliw"));
  struct stat st;
  char *kernels = zmi_path_join(folder.path, "kernels");
  assert_int_equal(stat(kernels, &st), 0);
  assert_int_equal(st.st_mode & 0777, 0700);
  zmi_free(kernels);
}

static void damage(const char *path, long at, bool cut) {
  FILE *f = fopen(path, "r+b");
  assert_non_null(f);
  if (cut) {
    assert_int_equal(ftruncate(fileno(f), at), 0);
  } else {
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, -1, SEEK_CUR);
    fputc(c ^ 1, f);
  }
  fclose(f);
}

static void damaged_entries_are_rebuilt(void **state) {
  (void)state;
  char note[512];
  bool cached;
  assert_int_equal(build(source_42, "scalar", false, note, &cached), 42);
  static const struct {
    long at;
    bool cut;
  } cases[] = {{100, false}, {-1, false}, {-40, false}, {2000, true}, {10, true}, {0, true}};
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    char *path = entry_path();
    damage(path, cases[i].at, cases[i].cut);
    assert_int_equal(build(source_42, "scalar", true, note, &cached), -1);
    assert_int_equal(build(source_42, "scalar", false, note, &cached), 42);
    assert_false(cached);
    assert_int_equal(build(source_42, "scalar", true, note, &cached), 42);
    zmi_free(path);
  }
  // A sound entry under another's name is not taken.
  char *first = entry_path(), *moved = zmi_path_join(folder.path, "moved");
  assert_int_equal(rename(first, moved), 0);
  assert_int_equal(build(source_43, "scalar", false, note, &cached), 43);
  char *second = entry_path();
  assert_int_equal(rename(moved, second), 0);
  assert_int_equal(build(source_43, "scalar", false, note, &cached), 43);
  assert_false(cached);
  zmi_free(first), zmi_free(second), zmi_free(moved);
}

static void script(const char *name, const char *text) {
  const char *path = kernel_script(name, text);
  assert_non_null(path);
  setenv("ZMLX_CC", path, 1);
}

// What the note says is kept must be there, with the source in it.
static void assert_kept(const char *note, const char *source) {
  const char *where = strstr(note, "is kept in ");
  assert_non_null(where);
  char *data;
  size_t size;
  assert_int_equal(zmi_read_file(where + 11, 1 << 20, &data, &size), ZM_OK);
  assert_string_equal(data, source);
  zmi_free(data);
}

static void a_compiler_that_fails(void **state) {
  (void)state;
  char note[512];
  bool cached;
  assert_int_equal(build("int answer(void) { return fourty_two; }\n", "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "error"));
  assert_non_null(strstr(note, "fourty_two"));
  assert_kept(note, "int answer(void) { return fourty_two; }\n");
  script("cc-bad", "#!/bin/sh\necho some words; echo 'kernel.c:1: error: the moon is full'; exit 3\n");
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "status 3"));
  assert_non_null(strstr(note, "error: the moon is full"));
  assert_kept(note, source_42);
  script("cc-silent", "#!/bin/sh\nexit 0\n"); // says that it has done it
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_kept(note, source_42);
  script("cc-junk", "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = -o ] && echo junk >\"$2\"; shift; done\n");
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "could not be loaded: ")); // why: in the words of the system
  assert_null(strstr(note, "it said"));
  assert_null(entry_path()); // and nothing of it is remembered
  script("cc-full", "#!/bin/sh\necho 'the disk is full' >&2\n");
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "could not be loaded: "));
  assert_non_null(strstr(note, "; it said: the disk is full; the source is kept in "));
  assert_kept(note, source_42);
  setenv("ZMLX_CC", "there-is-no-such-compiler", 1);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "there-is-no-such-compiler"));
  char *path = strdup(getenv("PATH"));
  unsetenv("ZMLX_CC");
  setenv("PATH", folder.path, 1);
  setenv("ZMLX_CC", "cc", 1);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  setenv("PATH", path, 1);
  free(path);
}

static pid_t pid_in(const char *path) {
  char *data = NULL;
  size_t size;
  for (int i = 0; i < 2000 && (zmi_read_file(path, 100, &data, &size) != ZM_OK || size == 0); i++) {
    zmi_free(data);
    data = NULL;
    nanosleep(&(struct timespec){0, 5000000}, NULL);
  }
  assert_non_null(data);
  const pid_t pid = (pid_t)atoi(data);
  zmi_free(data);
  assert_true(pid > 1);
  return pid;
}

static bool is_gone(pid_t pid) {
  bool gone = false;
  for (int i = 0; i < 200 && !gone; i++) { // killed, if not yet buried
    char stat_path[64], words[256] = "";
    snprintf(stat_path, sizeof stat_path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(stat_path, "r");
    if (f && !fgets(words, sizeof words, f)) words[0] = 0;
    if (f) fclose(f);
    gone = !f || strstr(words, ") Z ") || strstr(words, ") X ");
    if (!gone) nanosleep(&(struct timespec){0, 10000000}, NULL);
  }
  return gone;
}

// Names in the cache folder that end so, or all.
static int names(const char *ending) {
  char *kernels = zmi_path_join(folder.path, "kernels");
  DIR *d = opendir(kernels);
  int n = 0;
  for (struct dirent *f; d && (f = readdir(d)) != NULL;) {
    const size_t size = strlen(f->d_name), end = strlen(ending);
    n += f->d_name[0] != '.' && size >= end && strcmp(f->d_name + size - end, ending) == 0;
  }
  if (d) closedir(d);
  zmi_free(kernels);
  return n;
}

// Lines that a script wrote, one for each time it was asked to compile.
static int times_asked(const char *path) {
  FILE *f = fopen(path, "r");
  int n = 0;
  for (int c; f && (c = fgetc(f)) != EOF;) n += c == '\n';
  if (f) fclose(f);
  return n;
}

static void failures_are_remembered_for_a_while(void **state) {
  (void)state;
  char note[512], again[512], path[1024], text[2048], source[128];
  bool cached;
  snprintf(path, sizeof path, "%s/asked", folder.path);
  snprintf(text, sizeof text, "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho >>%s\necho 'error: tired' >&2\nexit 3\n", path);
  script("cc-bad", text);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  for (int i = 0; i < 3; i++) assert_int_equal(build(source_42, "scalar", false, again, &cached), -1);
  assert_int_equal(times_asked(path), 1);
  assert_non_null(strstr(again, "error: tired"));
  assert_non_null(strstr(again, "ago (zmlx kernel cache --clear forgets it)"));
  assert_kept(again, source_42);
  assert_int_equal(build(source_42, "avx2", false, again, &cached), -1); // other flags, another memory
  assert_int_equal(times_asked(path), 2);
  // Another process is spared it too.
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) _exit(build(source_42, "scalar", false, again, &cached) == -1 && times_asked(path) == 2 ? 0 : 1);
  int status;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  // Many failures leave entries alone, which are counted, and cleared.
  for (int i = 0; i < 6; i++) {
    snprintf(source, sizeof source, "int answer(void) { return %d; }\n", i);
    assert_int_equal(build(source, "scalar", false, note, &cached), -1);
  }
  assert_int_equal(names(".failed"), 8);
  assert_int_equal(names(".c"), 8);
  assert_int_equal(names(""), 16); // no workplaces
  zmi_cache c;
  zmi_cache_open(&c);
  assert_int_equal(zmi_cache_look(&c).entries, 16);
  assert_int_equal(zmi_cache_clear(&c), 16);
  assert_int_equal(names(""), 0);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_int_equal(times_asked(path), 9);
  // It expires: the entry starts with the second in which it was made.
  char *kernels = zmi_path_join(folder.path, "kernels");
  DIR *d = opendir(kernels);
  for (struct dirent *f; (f = readdir(d)) != NULL;)
    if (strstr(f->d_name, ".failed")) {
      const int size = snprintf(text, sizeof text, "%lld 0\nold words", (long long)time(NULL) - 3601);
      assert_true(zmi_cache_put(&c, f->d_name, text, (size_t)size));
      break;
    }
  closedir(d);
  zmi_free(kernels);
  zmi_cache_close(&c);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_int_equal(times_asked(path), 10);
  assert_null(strstr(note, "ago"));
}

// Without a folder of kernels the last failure of a process keeps its source among the temporary files, and workplaces that were left there
// are swept.
static void failures_without_a_cache(void **state) {
  (void)state;
  char note[512], source[128], old[1024];
  bool cached;
  setenv("ZMLX_CACHE_DIR", "/dev/null/nowhere", 1);
  setenv("TMPDIR", folder.path, 1);
  snprintf(old, sizeof old, "%s/zmlx-kernel-abcdef", folder.path);
  assert_int_equal(mkdir(old, 0700), 0);
  assert_int_equal(utimensat(AT_FDCWD, old, (struct timespec[]){{1, 0}, {1, 0}}, 0), 0);
  script("cc-bad", "#!/bin/sh\nexit 3\n");
  for (int i = 0; i < 5; i++) {
    snprintf(source, sizeof source, "int answer(void) { return %d; }\n", i);
    assert_int_equal(build(source, "scalar", false, note, &cached), -1);
    assert_kept(note, source);
  }
  DIR *d = opendir(folder.path);
  int left = 0;
  for (struct dirent *f; (f = readdir(d)) != NULL;) left += strncmp(f->d_name, "zmlx-kernel-", 12) == 0;
  closedir(d);
  assert_int_equal(left, 1);
  unsetenv("TMPDIR");
}

// A process that is killed takes the compiler and all that it had started with it.
static void a_killed_process_leaves_no_compiler(void **state) {
  (void)state;
  char path[1024], text[4096];
  snprintf(path, sizeof path, "%s/child", folder.path);
  snprintf(text, sizeof text, "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho $$ >%s-0\nsleep 100 &\necho $! >%s\nsleep 100\n", path,
           path);
  script("cc-slow", text);
  const pid_t child = fork();
  assert_true(child >= 0);
  if (child == 0) {
    char note[512];
    bool cached;
    build(source_42, "scalar", false, note, &cached);
    _exit(0);
  }
  const pid_t grandchild = pid_in(path);
  strcat(path, "-0");
  const pid_t compiler = pid_in(path);
  nanosleep(&(struct timespec){0, 300000000}, NULL); // the compiler may have run before the process that started it goes on
  assert_int_equal(kill(child, SIGKILL), 0);
  assert_int_equal(waitpid(child, NULL, 0), child);
  assert_true(is_gone(compiler));
  assert_true(is_gone(grandchild));
}

static void flags_in_the_name_of_the_compiler(void **state) {
  (void)state;
  char note[512];
  bool cached;
  setenv("ZMLX_CC", "cc -O2", 1);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_non_null(strstr(note, "the name or the path of a compiler alone, without flags"));
}

static void a_compiler_that_hangs(void **state) {
  (void)state;
  char note[512], path[1024], text[2048];
  bool cached;
  snprintf(path, sizeof path, "%s/child", folder.path);
  // It leaves a child of its own, which must go too.
  snprintf(text, sizeof text,
           "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\necho 'no license yet: waiting'\nsleep 100 &\necho $! >%s\nsleep 100\n", path);
  script("cc-slow", text);
  setenv("ZMLX_CC_SECONDS", "0.5", 1);
  double start = zmi_now();
  assert_int_equal(build(source_42, "scalar", false, note, &cached), -1);
  assert_true(zmi_now() - start < 10);
  assert_non_null(strstr(note, "0.5 seconds: no license yet: waiting; the source is kept in "));
  assert_kept(note, source_42);
  assert_true(is_gone(pid_in(path)));
  start = zmi_now(); // it is not asked a second time
  assert_int_equal(build(source_43, "scalar", false, note, &cached), -1);
  assert_true(zmi_now() - start < 0.4);
  unsetenv("ZMLX_CC_SECONDS");
}

static void folders_that_cannot_be_used(void **state) {
  (void)state;
  char note[512];
  bool cached;
  zmi_cache c;
  char *kernels = zmi_path_join(folder.path, "kernels");
  assert_int_equal(mkdir(kernels, 0700), 0);
  assert_int_equal(chmod(kernels, 0777), 0); // anybody could put a library there
  zmi_cache_open(&c);
  assert_null(c.folder);
  assert_non_null(strstr(c.why, "other users"));
  zmi_cache_close(&c);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), 42); // works without
  assert_int_equal(build(source_42, "scalar", true, note, &cached), -1);
  assert_null(entry_path());
  assert_int_equal(chmod(kernels, 0500), 0);
  if (geteuid() != 0) { // root may write anywhere
    zmi_cache_open(&c);
    assert_null(c.folder);
    zmi_cache_close(&c);
    assert_int_equal(build(source_42, "scalar", false, note, &cached), 42);
  }
  assert_int_equal(rmdir(kernels), 0);
  assert_int_equal(symlink(folder.path, kernels), 0); // a link may lead anywhere
  zmi_cache_open(&c);
  assert_null(c.folder);
  zmi_cache_close(&c);
  unlink(kernels);
  setenv("ZMLX_CACHE_DIR", "/dev/null/nowhere", 1);
  assert_int_equal(build(source_42, "scalar", false, note, &cached), 42);
  zmi_free(kernels);
}

static void the_size_is_bounded(void **state) {
  (void)state;
  zmi_cache c;
  static char data[100 << 10];
  char name[80];
  char first[80];
  snprintf(first, sizeof first, "%064x.so", 0);
  setenv("ZMLX_CACHE_MB", "1", 1);
  zmi_cache_open(&c);
  assert_non_null(c.folder);
  for (int i = 0; i < 30; i++) {
    size_t size;
    snprintf(name, sizeof name, "%064x.so", i);
    data[0] = (char)i;
    assert_true(zmi_cache_put(&c, name, data, sizeof data));
    nanosleep(&(struct timespec){0, 2000000}, NULL);
    char *back = zmi_cache_read(&c, first, &size); // used all the time: it stays
    assert_non_null(back);
    assert_int_equal(size, sizeof data);
    zmi_free(back);
    zmi_cache_facts facts = zmi_cache_look(&c);
    assert_true(facts.bytes <= 1 << 20 && facts.limit == 1 << 20);
  }
  size_t size;
  char *last = zmi_cache_read(&c, name, &size);
  snprintf(name, sizeof name, "%064x.so", 1);
  assert_null(zmi_cache_read(&c, name, &size)); // used longest ago: gone
  assert_non_null(last);
  zmi_free(last);
  assert_true(zmi_cache_clear(&c) > 3);
  assert_int_equal(zmi_cache_look(&c).entries, 0);
  zmi_cache_close(&c);
}

// The folder may be somebody's own, as with ZMLX_CACHE_DIR=. in a project that has a folder `kernels`: what no writer of the cache made is
// neither counted nor removed, however full the cache is.
static void files_of_others_stay(void **state) {
  (void)state;
  static const char hash[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
  static const char *const endings[] = {"", ".cu", ".so.bak", ".c.part-", ".so.part-12-3-0000abcd~", "0.so"};
  static const char *const names_of_theirs[] = {"mine.cu", "README.md", "tune-up.txt", "tune-", "cuda-notes.cubin", "kernel.so", ".failed"};
  static const char *const ours[] = {".so", ".failed", ".c", ".so.part-12-3-0000abcd"};
  static char data[1 << 20];
  char name[128], file[1200];
  const char *folders[] = {"work-folder", "work-sheets-of-mine"};
  char *kernels = zmi_path_join(folder.path, "kernels");
  zmi_cache c;
  size_t theirs = 0;
  setenv("ZMLX_CACHE_MB", "1", 1);
  zmi_cache_open(&c);
  for (size_t i = 0; i < ZMI_COUNT(endings) + ZMI_COUNT(names_of_theirs); i++, theirs++) {
    if (i < ZMI_COUNT(endings)) snprintf(name, sizeof name, "%s%s", hash, endings[i]);
    snprintf(file, sizeof file, "%s/%s", kernels, i < ZMI_COUNT(endings) ? name : names_of_theirs[i - ZMI_COUNT(endings)]);
    assert_int_equal(temp_write(file, data, sizeof data / 2), 0);
    assert_int_equal(utimensat(AT_FDCWD, file, (struct timespec[]){{1, 0}, {1, 0}}, 0), 0);
  }
  for (size_t i = 0; i < ZMI_COUNT(folders); i++) {
    snprintf(file, sizeof file, "%s/%s", kernels, folders[i]);
    assert_int_equal(mkdir(file, 0755), 0);
    strcat(file, "/kernel.c");
    assert_int_equal(temp_write(file, "mine", 4), 0);
    *strrchr(file, '/') = 0;
    assert_int_equal(utimensat(AT_FDCWD, file, (struct timespec[]){{1, 0}, {1, 0}}, 0), 0);
  }
  assert_int_equal(zmi_cache_look(&c).entries, 0);
  assert_false(zmi_cache_put(&c, "mine.cu", data, 100)); // a form that would never be cleared
  for (size_t i = 0; i < ZMI_COUNT(ours); i++) {
    snprintf(file, sizeof file, "%s/%s%s", kernels, hash, ours[i]);
    assert_int_equal(temp_write(file, data, 100), 0);
  }
  assert_true(zmi_cache_put(&c, "tune-0123456789abcdef0123456789abcdef", data, 100));
  assert_true(zmi_cache_put(&c, "cuda-0123456789abcdef0123456789abcdef.cubin", data, 600 << 10));
  assert_int_equal(zmi_cache_look(&c).entries, ZMI_COUNT(ours) + 2);
  assert_true(zmi_cache_put(&c, "tune-0123456789abcdef0123456789abcde0", data, 600 << 10)); // room is made
  assert_int_equal(zmi_cache_look(&c).entries, 1);
  zmi_cache_clear(&c);
  assert_int_equal(zmi_cache_look(&c).entries, 0);
  assert_int_equal(names(""), (int)(theirs + ZMI_COUNT(folders)) - 1); // without the one that starts with a dot
  for (size_t i = 0; i < ZMI_COUNT(folders); i++) {
    snprintf(file, sizeof file, "%s/%s/kernel.c", kernels, folders[i]);
    assert_int_equal(access(file, F_OK), 0);
  }
  zmi_cache_close(&c);
  zmi_free(kernels);
}

// Processes that compile, damage and clear at the same time all get right answers.
static void many_processes(void **state) {
  (void)state;
  enum { PROCESSES = 6 };
  pid_t children[PROCESSES];
  for (int p = 0; p < PROCESSES; p++) {
    children[p] = fork();
    assert_true(children[p] >= 0);
    if (children[p] > 0) continue;
    int bad = 0;
    for (int i = 0; i < 6; i++) {
      char note[512], source[128];
      bool cached;
      snprintf(source, sizeof source, "int answer(void) { return %d; }\n", 100 + i % 3);
      bad += build(source, "scalar", false, note, &cached) != 100 + i % 3;
      char *path = p == 0 ? entry_path() : NULL;
      if (path) {
        int fd = open(path, O_WRONLY | O_CLOEXEC); // another may have taken it away
        if (fd >= 0) bad += pwrite(fd, "?", 1, 500) != 1, close(fd);
      }
      zmi_free(path);
      if (p == 1 && i == 3) {
        zmi_cache c;
        zmi_cache_open(&c);
        zmi_cache_clear(&c);
        zmi_cache_close(&c);
      }
    }
    _exit(bad ? 1 : 0);
  }
  for (int p = 0; p < PROCESSES; p++) {
    int status;
    assert_int_equal(waitpid(children[p], &status, 0), children[p]);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
  }
}

// ---- instances ----

static zmi_code *triple(float by) {
  zmi_code *c = zmi_code_new(ZMI_FORM_ELEMENTS, "triple");
  c->nin = c->nout = 1;
  c->in[0] = c->out[0] = ZM_F32;
  int x = zmi_code_leaf(c, ZMI_K_INPUT, ZMI_C_FLOAT, 0, 0), y = zmi_code_op(c, ZMI_K_MUL, x, zmi_code_const_f(c, by), -1);
  zmi_code_emit(c, &(zmi_inst){.op = ZMI_K_OUTPUT, .a = y, .b = -1, .c = -1});
  assert_int_equal(zmi_code_finish(c), ZM_OK);
  return c;
}

static void instances_are_shared(void **state) {
  (void)state;
  zmi_instance_forget();
  zmi_code *a = triple(3), *b = triple(3), *other = triple(4);
  zmi_instance *x = zmi_instance_of(a), *y = zmi_instance_of(b), *z = zmi_instance_of(other);
  assert_ptr_equal(x, y);
  assert_ptr_not_equal(x, z);
  zmi_code_free(a), zmi_code_free(b), zmi_code_free(other);
  assert_ptr_equal(zmi_instance_find(zmi_instance_code(x)->key), x);
  zmi_instance_release(x);
  setenv("ZMLX_KERNELS", "compile", 1);
  zmi_instance_prepare(x, 1, 0);
  assert_int_equal(strncmp(zmi_instance_note(x), "compiled for ", 13), 0);
  const float in[3] = {1, 2, 3};
  float out[3];
  zmi_instance_elements(x, zmi_kernels_find(NULL), 0, 3, (const void *[]){in}, (int[]){1}, NULL, (void *[]){out});
  assert_true(out[0] == 3 && out[1] == 6 && out[2] == 9);
  zmi_instance_facts facts[8];
  assert_int_equal(zmi_instance_list(facts, ZMI_COUNT(facts)), 2);
  const int first = facts[0].compiled ? 0 : 1;
  assert_string_equal(facts[first].name, "triple");
  assert_int_equal(facts[first].runs, 1);
  assert_int_equal(facts[first].refs, 2);
  zmi_instance_release(x), zmi_instance_release(y), zmi_instance_release(z);
  zmi_code *again = triple(3); // kept though nobody holds it
  zmi_instance *w = zmi_instance_of(again);
  assert_int_equal(strncmp(zmi_instance_note(w), "compiled for ", 13), 0);
  zmi_instance_release(w);
  zmi_code_free(again);
  zmi_instance_forget();
  assert_int_equal(zmi_instance_list(NULL, 0), 0);
}

static void an_instance_without_a_compiler(void **state) {
  (void)state;
  setenv("ZMLX_KERNELS", "compile", 1);
  setenv("ZMLX_CC", "there-is-no-such-compiler", 1);
  zmi_code *c = triple(5);
  zmi_instance *x = zmi_instance_of(c);
  zmi_instance_prepare(x, 1, 0);
  assert_non_null(strstr(zmi_instance_note(x), "interpreted: "));
  assert_non_null(strstr(zmi_instance_note(x), "there-is-no-such-compiler"));
  assert_int_equal(zmi_instance_require(x), ZM_ERROR_UNSUPPORTED);
  zmi_instance_release(x);
  zmi_code_free(c);
  zmi_instance_forget();
}

static void small_work_is_interpreted(void **state) {
  (void)state;
  zmi_code *c = triple(6);
  zmi_instance *x = zmi_instance_of(c);
  zmi_instance_prepare(x, 1000, 0);
  assert_non_null(strstr(zmi_instance_note(x), "not used enough"));
  zmi_instance_prepare(x, (int64_t)1 << 32, 0);
  assert_int_equal(strncmp(zmi_instance_note(x), "compiled for ", 13), 0);
  zmi_instance_release(x);
  zmi_instance_forget();
  x = zmi_instance_of(c); // now the cache has it, so a little work is enough
  zmi_instance_prepare(x, 100000, 0);
  assert_non_null(strstr(zmi_instance_note(x), "from the cache"));
  zmi_instance_release(x);
  zmi_instance_forget();
  setenv("ZMLX_KERNELS", "interpret", 1);
  x = zmi_instance_of(c);
  zmi_instance_prepare(x, (int64_t)1 << 32, 0);
  assert_non_null(strstr(zmi_instance_note(x), "interpreted"));
  zmi_instance_release(x);
  zmi_code_free(c);
  zmi_instance_forget();
}

// ---- tuning ----

static zm_status tune(float by, int64_t n, bool again, zmi_tune_report *report) {
  static float in[1 << 17], out[1 << 17];
  for (int64_t i = 0; i < n; i++) in[i] = (float)i;
  zmi_code *c = triple(by);
  zmi_instance *x = zmi_instance_of(c);
  const zmi_work w = {.n = n, .in = (const void *[]){in}, .step = (int[]){1}, .out = (void *[]){out}};
  zm_status status = zmi_instance_tune(x, &w, again, report);
  if (status == ZM_OK) {
    memset(out, 0, sizeof out);
    zmi_instance_elements(x, zmi_kernels_find(NULL), zmi_shape_class(ZMI_FORM_ELEMENTS, n, 0), n, w.in, w.step, NULL, w.out);
    for (int64_t i = 0; i < n; i++) assert_true(out[i] == in[i] * by);
    assert_int_equal(strncmp(zmi_instance_note(x), "compiled for ", 13), 0);
  }
  zmi_instance_release(x);
  zmi_code_free(c);
  zmi_instance_forget();
  return status;
}

// What a choice is for stands in its entry, which another machine, compiler or tier does not take for its own.
static void says_what_it_is_for(const char *path) {
  char text[2048] = "", model[160] = "", line[256], cpus[32];
  FILE *f = fopen(path, "re"), *system = fopen("/proc/cpuinfo", "re");
  assert_non_null(f);
  assert_true(fread(text, 1, sizeof text - 1, f) > 0);
  fclose(f);
  while (system && !model[0] && fgets(line, sizeof line, system))
    if (strncmp(line, "model name", 10) == 0 && strchr(line, ':')) snprintf(model, sizeof model, "%.120s", strchr(line, ':') + 2);
  if (system) fclose(system);
  model[strcspn(model, "\n")] = 0;
  static const char *const words[] = {"\nkernel ", "\ntier ", "\ndevice ", "\ncompiler ", "\nshape "};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    const char *at = strstr(text, words[i]);
    if (!at || strchr(" \n", at[strlen(words[i])])) fail_msg("%s says nothing of %s:\n%s", path, words[i] + 1, text);
  }
  assert_non_null(strstr(text, "\ndtypes float32 > float32 \n"));
  snprintf(cpus, sizeof cpus, "\ncpus %d\n", zmi_cpu_count());
  assert_non_null(strstr(text, cpus));
  if (model[0] && !strstr(strstr(text, "\ndevice "), model)) fail_msg("the device of %s is not %s:\n%s", path, model, text);
}

// Entries of the same names with another word in them.
static void rewrite(const char *from, const char *to) {
  char *kernels = zmi_path_join(folder.path, "kernels");
  DIR *d = opendir(kernels);
  zmi_cache cache;
  zmi_cache_open(&cache);
  for (struct dirent *f; (f = readdir(d)) != NULL;) {
    size_t size = 0;
    char *path = zmi_path_join(kernels, f->d_name);
    if (strncmp(f->d_name, "tune-", 5) == 0 && strcmp(from, to) == 0) says_what_it_is_for(path);
    zmi_free(path);
    char *text = strncmp(f->d_name, "tune-", 5) == 0 ? zmi_cache_read(&cache, f->d_name, &size) : NULL,
         *at = text ? strstr(text, from) : NULL;
    if (at) {
      zmi_text t = {0};
      zmi_text_add(&t, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
      zmi_cache_put(&cache, f->d_name, t.data, t.size);
      zmi_text_release(&t);
    }
    zmi_free(text);
  }
  zmi_cache_close(&cache);
  closedir(d);
  zmi_free(kernels);
}

static void choices_are_measured_and_kept(void **state) {
  (void)state;
  zmi_tune_report r;
  assert_int_equal(tune(3, 1000, false, &r), ZM_OK);
  assert_false(r.remembered);
  assert_true(r.count >= 4 && r.chosen >= 0 && r.chosen < r.count);
  for (int i = 0; i < r.count; i++) assert_true(r.seconds[i] > 0);
  const zmi_tuning chosen = r.tuning[r.chosen];
  assert_int_equal(tune(3, 900, false, &r), ZM_OK); // the same class
  assert_true(r.remembered);
  assert_memory_equal(&r.tuning[0], &chosen, sizeof chosen);
  assert_int_equal(tune(3, 1000, true, &r), ZM_OK);
  assert_false(r.remembered);
  assert_int_equal(tune(4, 1000, false, &r), ZM_OK); // another kernel
  assert_false(r.remembered);
  assert_int_equal(tune(3, 1 << 17, false, &r), ZM_OK); // another class
  assert_false(r.remembered);
  rewrite("\ndevice ", "\ndevice "); // all say what they are for
  // What is no choice is not believed, nor one of another device that came by this name.
  static const char *const words[][2] = {{"\ndevice ", "\nDevice "}, {" pieces ", " pieces 9999"}, {"chunk ", "chunk 7"}};
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    assert_int_equal(tune(3, 1000, false, &r), ZM_OK);
    assert_int_equal(tune(3, 1000, false, &r), ZM_OK);
    assert_true(r.remembered);
    rewrite(words[i][0], words[i][1]);
    assert_int_equal(tune(3, 1000, false, &r), ZM_OK);
    if (r.remembered) fail_msg("a choice is believed with%s in it", words[i][1]);
  }
  char *kernels = zmi_path_join(folder.path, "kernels");
  DIR *d = opendir(kernels);
  for (struct dirent *f; (f = readdir(d)) != NULL;)
    if (strncmp(f->d_name, "tune-", 5) == 0) {
      char *path = zmi_path_join(kernels, f->d_name);
      damage(path, 40, false);
      zmi_free(path);
    }
  closedir(d);
  zmi_free(kernels);
  assert_int_equal(tune(3, 1000, false, &r), ZM_OK);
  assert_false(r.remembered);
  setenv("ZMLX_CC", "there-is-no-such-compiler", 1);
  assert_int_equal(tune(5, 1000, false, &r), ZM_ERROR_UNSUPPORTED);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, kernel_set_up, kernel_tear_down)
  const struct CMUnitTest tests[] = {
      TEST(hashes),
      TEST(compiled_once),
      TEST(damaged_entries_are_rebuilt),
      TEST(a_compiler_that_fails),
      TEST(failures_are_remembered_for_a_while),
      TEST(failures_without_a_cache),
      TEST(flags_in_the_name_of_the_compiler),
      TEST(a_killed_process_leaves_no_compiler),
      TEST(folders_that_cannot_be_used),
      TEST(the_size_is_bounded),
      TEST(files_of_others_stay),
      TEST(many_processes),
      TEST(instances_are_shared),
      TEST(an_instance_without_a_compiler),
      TEST(small_work_is_interpreted),
      TEST(choices_are_measured_and_kept),
      TEST(a_compiler_that_hangs),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
