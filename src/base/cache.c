// The folder of compiled kernels. Many processes read and write it at once: entries appear by rename under the hash of their content, are
// never changed, and are checked before they are trusted. Nothing here is needed: without a folder kernels are compiled each time.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MARK_BYTES = 16, SEAL_BYTES = MARK_BYTES + 32, MOST_ENTRY = 64 << 20, STALE_SECONDS = 3600 };
static const char mark[MARK_BYTES + 1] = "zmlx kernel v1\n\n"; // at the end of an entry, then the checksum of what stands before

// ---- the folder ----

static bool refuse(zmi_cache *c, const char *folder, const char *why) {
  snprintf(c->why, sizeof c->why, "%.150s %s", folder, why);
  return false;
}

// A folder into which others can write could be given libraries that this process would run.
static bool is_ours(zmi_cache *c, const char *folder) {
  struct stat st;
  if (lstat(folder, &st) != 0) return refuse(c, folder, "cannot be looked at");
  if (!S_ISDIR(st.st_mode)) return refuse(c, folder, "is not a folder");
  if (st.st_uid != geteuid()) return refuse(c, folder, "belongs to another user");
  if (st.st_mode & 022) return refuse(c, folder, "can be written by other users");
  return true;
}

static bool parent_is_safe(zmi_cache *c, const char *folder) {
  struct stat st;
  if (stat(folder, &st) != 0 || !S_ISDIR(st.st_mode)) return refuse(c, folder, "is not a folder");
  if (st.st_uid != geteuid() && st.st_uid != 0) return refuse(c, folder, "belongs to another user");
  if ((st.st_mode & 022) && !(st.st_mode & S_ISVTX)) return refuse(c, folder, "can be written by other users");
  return true;
}

// Makes the folders of a path that are missing, for this user alone.
static void make_folders(char *path) {
  for (char *p = path + 1; *p; p++) {
    if (*p != '/') continue;
    *p = 0;
    mkdir(path, 0700);
    *p = '/';
  }
  mkdir(path, 0700);
}

void zmi_cache_open(zmi_cache *c) {
  *c = (zmi_cache){0};
  char *parent = zmi_cache_folder(), *folder = parent ? zmi_path_join(parent, "kernels") : NULL;
  if (!folder) {
    snprintf(c->why, sizeof c->why, "there is no cache folder: neither ZMLX_CACHE_DIR nor HOME is set");
  } else {
    make_folders(folder);
    if (parent_is_safe(c, parent) && is_ours(c, folder) && (access(folder, W_OK | X_OK) == 0 || refuse(c, folder, "cannot be written")))
      c->folder = folder, folder = NULL;
  }
  zmi_free(folder);
  zmi_free(parent);
  zmi_error_clear();
}

void zmi_cache_close(zmi_cache *c) {
  zmi_free(c->folder);
  c->folder = NULL;
}

// ---- room ----

static uint64_t limit_bytes(void) {
  return (uint64_t)(zmi_env_number("ZMLX_CACHE_MB") * (1 << 20));
}

typedef struct entry {
  char name[NAME_MAX + 1];
  uint64_t bytes;
  struct timespec used;
} entry;

static int by_use(const void *a, const void *b) {
  const entry *x = a, *y = b;
  if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
  return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

// The folder may be one that somebody works in (ZMLX_CACHE_DIR=.), so what counts as an entry, and may be removed, has a name that only
// writers of entries give: the hash of a kernel and an ending, a choice of tuning, device code; and what a writer that was killed left.
static bool is_entry(const char *name, bool temporaries) {
  static const struct {
    const char *start;
    size_t digits;
    const char *ending;
  } forms[] = {{"", 64, ".so"}, {"", 64, ".failed"}, {"", 64, ".c"}, {"tune-", 32, ""}, {"cuda-", 32, ".cubin"}};
  for (size_t i = 0; i < ZMI_COUNT(forms); i++) {
    const size_t start = strlen(forms[i].start), ending = strlen(forms[i].ending);
    if (strncmp(name, forms[i].start, start) != 0 || strspn(name + start, "0123456789abcdef") != forms[i].digits) continue;
    const char *rest = name + start + forms[i].digits;
    if (strncmp(rest, forms[i].ending, ending) != 0) continue;
    rest += ending;
    if (!*rest || (temporaries && zmi_writer_left(rest))) return true;
  }
  return false;
}

// Entries of the folder. Other files in it are somebody's own; folders are workplaces of compilers.
static entry *list(const zmi_cache *c, size_t *count) {
  entry *all = NULL;
  size_t n = 0, capacity = 0;
  DIR *d = c->folder ? opendir(c->folder) : NULL;
  *count = 0;
  if (!d) return NULL;
  for (struct dirent *f; (f = readdir(d)) != NULL;) {
    struct stat st;
    if (!is_entry(f->d_name, true) || fstatat(dirfd(d), f->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) continue;
    if (!ZMI_GROW(all, capacity, n + 1)) break;
    snprintf(all[n].name, sizeof all[n].name, "%s", f->d_name);
    all[n].bytes = (uint64_t)st.st_size;
    all[n++].used = st.st_mtim;
  }
  closedir(d);
  *count = n;
  return all;
}

static void drop(const zmi_cache *c, const char *name) {
  char *path = zmi_path_join(c->folder, name);
  if (path) unlink(path);
  zmi_free(path);
}

// Workplaces of processes that were killed: folders of this user alone whose names start so, as mkdtemp makes them, and that nobody has
// touched for a while.
void zmi_cache_sweep(const char *folder, const char *start) {
  DIR *d = opendir(folder);
  if (!d) return;
  for (struct dirent *f; (f = readdir(d)) != NULL;) {
    static const char *const inner[] = {"kernel.c", "kernel.so", "words"};
    struct stat st;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (strncmp(f->d_name, start, strlen(start)) != 0 || strlen(f->d_name) != strlen(start) + 6) continue;
    if (fstatat(dirfd(d), f->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISDIR(st.st_mode) || (st.st_mode & 077)) continue;
    if (st.st_uid != geteuid() || now.tv_sec - st.st_mtim.tv_sec < STALE_SECONDS) continue;
    int fd = openat(dirfd(d), f->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) continue;
    for (size_t i = 0; i < ZMI_COUNT(inner); i++) unlinkat(fd, inner[i], 0);
    close(fd);
    unlinkat(dirfd(d), f->d_name, AT_REMOVEDIR);
  }
  closedir(d);
}

// Down to three quarters of the limit once it is passed, so that this is not done for every kernel.
static void make_room(const zmi_cache *c) {
  size_t n;
  uint64_t bytes = 0, limit = limit_bytes();
  entry *all = list(c, &n);
  for (size_t i = 0; i < n; i++) bytes += all[i].bytes;
  if (bytes > limit) {
    qsort(all, n, sizeof *all, by_use);
    for (size_t i = 0; i < n && bytes > limit / 4 * 3; i++) {
      drop(c, all[i].name);
      bytes -= all[i].bytes;
    }
  }
  zmi_free(all);
  zmi_cache_sweep(c->folder, "work-");
}

zmi_cache_facts zmi_cache_look(const zmi_cache *c) {
  zmi_cache_facts facts = {.limit = limit_bytes()};
  entry *all = list(c, &facts.entries);
  for (size_t i = 0; i < facts.entries; i++) facts.bytes += all[i].bytes;
  zmi_free(all);
  return facts;
}

size_t zmi_cache_clear(const zmi_cache *c) {
  size_t n;
  entry *all = list(c, &n);
  for (size_t i = 0; i < n; i++) drop(c, all[i].name);
  zmi_free(all);
  if (c->folder) zmi_cache_sweep(c->folder, "work-");
  return n;
}

// ---- entries ----

static void checksum(const char *name, const void *data, size_t size, uint8_t digest[32]) {
  zmi_sha256 h;
  zmi_sha256_start(&h);
  zmi_sha256_add(&h, name, strlen(name)); // an entry under another's name is none
  zmi_sha256_add(&h, data, size);
  zmi_sha256_end(&h, digest);
}

char *zmi_cache_read(const zmi_cache *c, const char *name, size_t *size) {
  char *path = c->folder ? zmi_path_join(c->folder, name) : NULL, *data = NULL;
  size_t bytes = 0;
  struct stat st;
  uint8_t digest[32];
  bool sound = path && lstat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_uid == geteuid() &&
               zmi_read_file(path, MOST_ENTRY, &data, &bytes) == ZM_OK && bytes >= SEAL_BYTES;
  if (sound) {
    checksum(name, data, bytes - SEAL_BYTES, digest);
    sound = memcmp(data + bytes - SEAL_BYTES, mark, MARK_BYTES) == 0 && memcmp(data + bytes - 32, digest, 32) == 0;
  }
  if (sound) {
    *size = bytes - SEAL_BYTES;
    data[*size] = 0;
    utimensat(AT_FDCWD, path, NULL, 0);
  } else {
    zmi_free(data);
    data = NULL;
  }
  zmi_free(path);
  zmi_error_clear();
  return data;
}

char *zmi_cache_find(const zmi_cache *c, const char *name) {
  size_t size;
  char *data = zmi_cache_read(c, name, &size), *path = data ? zmi_path_join(c->folder, name) : NULL;
  zmi_free(data);
  return path;
}

bool zmi_cache_put(const zmi_cache *c, const char *name, const void *data, size_t size) {
  const bool takes = c->folder && size <= MOST_ENTRY - SEAL_BYTES && is_entry(name, false);
  char *path = takes ? zmi_path_join(c->folder, name) : NULL;
  zmi_writer *w = path ? zmi_writer_open(path) : NULL;
  uint8_t digest[32];
  bool done = false;
  if (w) {
    checksum(name, data, size, digest);
    if (zmi_writer_write(w, data, size) == ZM_OK && zmi_writer_write(w, mark, MARK_BYTES) == ZM_OK &&
        zmi_writer_write(w, digest, sizeof digest) == ZM_OK)
      done = zmi_writer_publish(w) == ZM_OK;
    else
      zmi_writer_abandon(w);
  }
  zmi_free(path);
  zmi_error_clear();
  if (done) make_room(c);
  return done;
}
