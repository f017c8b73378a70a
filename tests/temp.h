// Temporary folders for tests: made under TMPDIR, looked into, removed with what is in them.
#ifndef ZMLX_TEST_TEMP_H
#define ZMLX_TEST_TEMP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct temp_folder {
  char path[512];
  char joined[4][1024];
  unsigned next;
} temp_folder;

static inline const char *temp_join(char *out, size_t room, const char *folder, const char *name) {
  size_t head = strlen(folder), tail = strlen(name);
  if (head + tail + 2 > room) abort();
  memcpy(out, folder, head);
  out[head] = '/';
  memcpy(out + head + 1, name, tail + 1);
  return out;
}

static inline int temp_make(temp_folder *t) {
  const char *base = getenv("TMPDIR");
  snprintf(t->path, sizeof t->path, "%s/zmlx-test-XXXXXX", base && *base ? base : "/tmp");
  t->next = 0;
  return mkdtemp(t->path) ? 0 : -1;
}

// The path of a file in the folder; valid for the next three calls.
static inline const char *temp_path(temp_folder *t, const char *name) {
  char *joined = t->joined[t->next++ % 4];
  return temp_join(joined, sizeof t->joined[0], t->path, name);
}

// Number of entries in the folder, -1 if it can't be read.
static inline int temp_count(const temp_folder *t) {
  DIR *folder = opendir(t->path);
  int count = 0;
  if (!folder) return -1;
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;)
    count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
  closedir(folder);
  return count;
}

static inline int temp_write(const char *path, const void *data, size_t size) {
  FILE *f = fopen(path, "wb");
  if (!f) return -1;
  size_t put = size ? fwrite(data, 1, size, f) : 0;
  return fclose(f) == 0 && put == size ? 0 : -1;
}

static inline void temp_remove_under(const char *path, int depth) {
  DIR *folder = depth < 12 ? opendir(path) : NULL;
  if (folder) {
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
      char inner[2048];
      if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
      temp_join(inner, sizeof inner, path, entry->d_name);
      if (unlink(inner) != 0) temp_remove_under(inner, depth + 1);
    }
    closedir(folder);
  }
  rmdir(path);
}

static inline void temp_remove(temp_folder *t) { temp_remove_under(t->path, 0); }

#endif
