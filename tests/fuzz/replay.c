// Feeds every file of a corpus folder to a fuzz target: the seeds stay a test where there is no libFuzzer.
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// The bytes of a file (released by the caller), NULL if it can't be read.
static uint8_t *read_all(const char *path, size_t *size) {
  FILE *f = fopen(path, "rb");
  uint8_t *data = NULL;
  if (f == NULL) return NULL;
  if (fseek(f, 0, SEEK_END) == 0) {
    long end = ftell(f);
    rewind(f);
    if (end >= 0) {
      *size = (size_t)end;
      data = malloc(*size > 0 ? *size : 1); // exactly as large, so that a read past the end is found
      if (data != NULL && fread(data, 1, *size, f) != *size) {
        free(data);
        data = NULL;
      }
    }
  }
  fclose(f);
  return data;
}

int main(int argc, char **argv) {
  int count = 0, failures = 0;
  if (argc != 2) return 2;
  DIR *folder = opendir(argv[1]);
  if (folder == NULL) {
    perror(argv[1]);
    return 2;
  }
  for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char path[4096];
    size_t size = 0;
    if (entry->d_name[0] == '.') continue;
    snprintf(path, sizeof path, "%s/%s", argv[1], entry->d_name);
    uint8_t *data = read_all(path, &size);
    count++;
    if (data == NULL) {
      failures++;
      printf("not ok %d - %s\n", count, entry->d_name);
      continue;
    }
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    printf("ok %d - %s\n", count, entry->d_name);
  }
  closedir(folder);
  printf("1..%d\n", count);
  return failures > 0 || count == 0;
}
