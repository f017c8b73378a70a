// Files: read-only mappings, whole-file reads, and writers whose result appears under its name only when it is complete.
// On Linux the unfinished file has no name at all (O_TMPFILE), so that even a killed process leaves nothing behind.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WRITE_BUFFER = 256 << 10, NAME_TRIES = 100, READ_STEP = 64 << 10 };

// strerror is not safe between threads, and strerror_r comes in two kinds.
static const char *reason(int error) {
  static const struct {
    int error;
    const char *text;
  } reasons[] = {
    {ENOENT, "no such file or folder"},     {EACCES, "permission denied"},           {EPERM, "operation not permitted"},
    {EISDIR, "it is a folder"},             {ENOTDIR, "part of the path is a file"}, {ENOSPC, "the disk is full"},
    {EDQUOT, "the disk quota is used up"},  {EFBIG, "the file size limit is reached"}, {EROFS, "the file system is read-only"},
    {EIO, "input/output error of the device"}, {EMFILE, "too many open files"},      {ENFILE, "too many open files in the system"},
    {ENAMETOOLONG, "the name is too long"}, {ELOOP, "too many symbolic links"},      {ENOMEM, "out of memory"},
    {EEXIST, "it exists already"},          {ETXTBSY, "it is a running program"},    {EPIPE, "the reader has gone"},
    {ENODEV, "it can't be mapped"},         {ENOTEMPTY, "the folder is not empty"},  {EBUSY, "it is in use"},
  };
  for (size_t i = 0; i < ZMI_COUNT(reasons); i++)
    if (reasons[i].error == error) return reasons[i].text;
  return "system error";
}

static zm_status fail_file(const char *verb, const char *path, int error) {
  return zmi_fail(error == ENOMEM ? ZM_ERROR_MEMORY : ZM_ERROR_FILE, "cannot %s %s: %s (errno %d)", verb, path, reason(error), error);
}

// ---- reading ----

static int open_read(const char *path) {
  int fd;
  do fd = open(path, O_RDONLY | O_CLOEXEC);
  while (fd < 0 && errno == EINTR);
  return fd;
}

zm_status zmi_map_file(const char *path, zmi_mapping *m) {
  struct stat st;
  int fd = open_read(path);
  if (fd < 0) return fail_file("open", path, errno);
  if (fstat(fd, &st) != 0) {
    int error = errno;
    close(fd);
    return fail_file("read", path, error);
  }
  if (!S_ISREG(st.st_mode)) {
    close(fd);
    return zmi_fail(ZM_ERROR_FILE, "cannot map %s: it is %s, not a file", path, S_ISDIR(st.st_mode) ? "a folder" : "a device or pipe");
  }
  zmi_mapping result = {NULL, 0};
  if ((uintmax_t)st.st_size > SIZE_MAX / 2) {
    close(fd);
    return zmi_fail(ZM_ERROR_FILE, "cannot map %s: its %jd bytes are more than can be addressed", path, (intmax_t)st.st_size);
  }
  if (st.st_size > 0) {
    void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int error = errno;
    if (map == MAP_FAILED) {
      close(fd);
      return fail_file("map", path, error);
    }
    result = (zmi_mapping){map, (size_t)st.st_size};
  }
  close(fd);
  *m = result;
  return ZM_OK;
}

void zmi_unmap_file(zmi_mapping *m) {
  if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
  *m = (zmi_mapping){NULL, 0};
}

void zmi_mapping_drop(const zmi_mapping *m, size_t offset, size_t size) {
  if (!m->data || offset >= m->size) return;
  size = ZMI_MIN(size, m->size - offset);
  // Rounded outwards: a page shared with a neighbour comes back from the page cache when it is touched again.
  size_t page = (size_t)sysconf(_SC_PAGESIZE), start = offset - offset % page;
  if (size) madvise((void *)(uintptr_t)(m->data + start), offset + size - start, MADV_DONTNEED);
}

static zm_status read_all(int fd, const char *path, size_t limit, char **data, size_t *size) {
  struct stat st;
  size_t used = 0, capacity = 0;
  char *buffer = NULL;
  size_t guess = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size : READ_STEP;
  if (guess >= limit) guess = limit;
  guess = ZMI_MIN(guess, SIZE_MAX - 2);
  for (;;) {
    // One byte more than the limit is asked for, to learn that a file is too long; one byte is kept for the final zero.
    if (used + 2 > capacity && !ZMI_GROW(buffer, capacity, used ? used + 2 : guess + 2)) {
      zmi_free(buffer);
      return ZM_ERROR_MEMORY;
    }
    ssize_t got = read(fd, buffer + used, ZMI_MIN(capacity - used - 1, (size_t)SSIZE_MAX / 2));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      int error = errno;
      zmi_free(buffer);
      return fail_file("read", path, error);
    }
    if (got == 0) break;
    used += (size_t)got;
    if (used > limit) {
      zmi_free(buffer);
      return zmi_fail(ZM_ERROR_FORMAT, "%s: larger than the %zu bytes that such a file may have", path, limit);
    }
  }
  buffer[used] = 0;
  *data = buffer;
  *size = used;
  return ZM_OK;
}

zm_status zmi_read_file(const char *path, size_t limit, char **data, size_t *size) {
  int fd = open_read(path);
  if (fd < 0) return fail_file("open", path, errno);
  zm_status status = read_all(fd, path, limit, data, size);
  close(fd);
  return status;
}

// ---- writing ----

struct zmi_writer {
  char *path;      // where the file will appear; symbolic links resolved
  char *temporary; // name beside it: of the unfinished file, or only for the moment of publishing if `nameless`
  int fd;
  bool nameless; // O_TMPFILE
  bool direct;   // a device or pipe: written to at once
  bool failed;
  size_t used;
  uint8_t buffer[WRITE_BUFFER];
};

static void free_writer(zmi_writer *w) {
  if (w->fd >= 0) close(w->fd);
  zmi_free(w->path);
  zmi_free(w->temporary);
  zmi_free(w);
}

// A name that no other thread, process or machine sharing the folder is likely to use now.
static bool set_temporary(zmi_writer *w) {
  static atomic_uint serial;
  zmi_text t = {0};
  unsigned mix = (unsigned)(uint64_t)(zmi_now() * 1e6);
  zmi_text_add(&t, "%s.part-%ld-%u-%08x", w->path, (long)getpid(), atomic_fetch_add(&serial, 1), mix);
  if (t.failed) {
    zmi_text_release(&t);
    return false;
  }
  zmi_free(w->temporary);
  w->temporary = t.data;
  return true;
}

bool zmi_writer_left(const char *ending) {
  long process;
  unsigned serial, mix;
  int end = 0;
  return sscanf(ending, ".part-%ld-%u-%8x%n", &process, &serial, &mix, &end) == 3 && end > 0 && !ending[end];
}

static int open_nameless(const char *path, mode_t mode) {
#ifdef O_TMPFILE
  char folder[PATH_MAX], link[64];
  const char *slash = strrchr(path, '/');
  size_t size = slash ? ZMI_MAX((size_t)(slash - path), (size_t)1) : 1;
  if (size >= sizeof folder) return -1;
  memcpy(folder, slash ? path : ".", size);
  folder[size] = 0;
  int fd = open(folder, O_TMPFILE | O_WRONLY | O_CLOEXEC, mode);
  if (fd < 0) return -1;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  if (access(link, F_OK) == 0) return fd;
  close(fd); // it could not be given a name later
#else
  (void)path, (void)mode;
#endif
  return -1;
}

static zm_status open_beside(zmi_writer *w, mode_t mode) {
  w->fd = open_nameless(w->path, mode);
  w->nameless = w->fd >= 0;
  if (w->nameless) return set_temporary(w) ? ZM_OK : ZM_ERROR_MEMORY;
  for (int i = 0; i < NAME_TRIES; i++) {
    if (!set_temporary(w)) return ZM_ERROR_MEMORY;
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (w->fd >= 0 || (errno != EEXIST && errno != EINTR)) break;
  }
  return w->fd >= 0 ? ZM_OK : fail_file("write", w->path, errno);
}

static zm_status open_target(zmi_writer *w) {
  struct stat st;
  if (stat(w->path, &st) != 0) return open_beside(w, 0666);
  if (S_ISDIR(st.st_mode)) return fail_file("write", w->path, EISDIR);
  if (S_ISREG(st.st_mode)) {
    zm_status status = open_beside(w, 0666);
    // The new file takes the permissions of the old one where that is allowed.
    if (status == ZM_OK && fchmod(w->fd, st.st_mode & 0777) != 0) errno = 0;
    return status;
  }
  w->direct = true;
  w->fd = open(w->path, O_WRONLY | O_CLOEXEC);
  return w->fd >= 0 ? ZM_OK : fail_file("write", w->path, errno);
}

// A link's target is replaced, not the link.
static char *resolve(const char *path) {
  char resolved[PATH_MAX];
  struct stat st;
  if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && realpath(path, resolved)) return zmi_strdup(resolved);
  return zmi_strdup(path);
}

zmi_writer *zmi_writer_open(const char *path) {
  if (!path || !*path) {
    zmi_fail(ZM_ERROR_ARGUMENT, "cannot write a file without a name");
    return NULL;
  }
  zmi_writer *w = zmi_malloc(sizeof *w);
  if (!w) return NULL;
  w->temporary = NULL;
  w->fd = -1;
  w->nameless = w->direct = w->failed = false;
  w->used = 0;
  w->path = resolve(path);
  if (w->path && open_target(w) == ZM_OK) return w;
  zmi_writer_abandon(w);
  return NULL;
}

static zm_status write_bytes(zmi_writer *w, const uint8_t *data, size_t size) {
  while (size > 0) {
    ssize_t put = write(w->fd, data, ZMI_MIN(size, (size_t)1 << 30));
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) {
      w->failed = true;
      return fail_file("write", w->path, put < 0 ? errno : ENOSPC);
    }
    data += put;
    size -= (size_t)put;
  }
  return ZM_OK;
}

static zm_status flush(zmi_writer *w) {
  size_t used = w->used;
  w->used = 0;
  return write_bytes(w, w->buffer, used);
}

zm_status zmi_writer_write(zmi_writer *w, const void *data, size_t size) {
  if (w->failed) return zmi_fail(ZM_ERROR_FILE, "cannot write %s: an earlier write failed", w->path);
  if (size >= WRITE_BUFFER - w->used && flush(w) != ZM_OK) return ZM_ERROR_FILE;
  if (size >= WRITE_BUFFER) return write_bytes(w, data, size);
  if (size) memcpy(w->buffer + w->used, data, size);
  w->used += size;
  return ZM_OK;
}

// Gives a nameless file the temporary name: a link can't replace the target, a rename can.
static zm_status name_file(zmi_writer *w) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", w->fd);
  for (int i = 0; i < NAME_TRIES; i++) {
    if (linkat(AT_FDCWD, link, AT_FDCWD, w->temporary, AT_SYMLINK_FOLLOW) == 0) {
      w->nameless = false;
      return ZM_OK;
    }
    if (errno != EEXIST) break;
    if (!set_temporary(w)) return ZM_ERROR_MEMORY;
    errno = EEXIST;
  }
  return fail_file("publish", w->path, errno);
}

static void sync_folder(const char *path) {
  char folder[PATH_MAX];
  const char *slash = strrchr(path, '/');
  size_t size = slash ? ZMI_MAX((size_t)(slash - path), (size_t)1) : 1;
  if (size >= sizeof folder) return;
  memcpy(folder, slash ? path : ".", size);
  folder[size] = 0;
  int fd = open(folder, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd); // the file is whole and in place; only a power failure now could bring the old one back
  close(fd);
}

static zm_status finish(zmi_writer *w) {
  if (w->failed) return zmi_fail(ZM_ERROR_FILE, "cannot publish %s: an earlier write failed", w->path);
  zm_status status = flush(w);
  if (status != ZM_OK) return status;
  if (w->direct) {
    int fd = w->fd;
    w->fd = -1;
    return close(fd) == 0 ? ZM_OK : fail_file("write", w->path, errno);
  }
  if (fsync(w->fd) != 0) return fail_file("write", w->path, errno);
  if (w->nameless && (status = name_file(w)) != ZM_OK) return status;
  if (rename(w->temporary, w->path) != 0) return fail_file("publish", w->path, errno);
  zmi_free(w->temporary);
  w->temporary = NULL;
  sync_folder(w->path);
  return ZM_OK;
}

zm_status zmi_writer_publish(zmi_writer *w) {
  zm_status status = finish(w);
  zmi_writer_abandon(w);
  return status;
}

void zmi_writer_abandon(zmi_writer *w) {
  if (!w) return;
  if (w->temporary && !w->nameless && w->fd >= 0) unlink(w->temporary);
  free_writer(w);
}

// ---- paths ----

char *zmi_path_join(const char *folder, const char *name) {
  size_t head = strlen(folder), tail = strlen(name);
  bool slash = head > 0 && folder[head - 1] != '/';
  char *path = zmi_malloc(head + tail + 2);
  if (!path) return NULL;
  memcpy(path, folder, head);
  if (slash) path[head] = '/';
  memcpy(path + head + slash, name, tail + 1);
  return path;
}

bool zmi_path_is_folder(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool zmi_path_exists(const char *path) {
  struct stat st;
  return stat(path, &st) == 0;
}

zm_status zmi_make_folder(const char *path) {
  if (mkdir(path, 0777) == 0) return ZM_OK;
  int error = errno;
  if (error == EEXIST && zmi_path_is_folder(path)) return ZM_OK;
  if (error == EEXIST) return zmi_fail(ZM_ERROR_FILE, "cannot make folder %s: a file of that name exists", path);
  return fail_file("make folder", path, error);
}
