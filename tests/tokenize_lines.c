// A driver for comparing the tokenizer with others (scripts/compare_tokenizer.py): reads records from standard input, answers on standard
// output. `tokenize_lines TOKENIZER`, or `tokenize_lines TOKENIZER --time FILE SECONDS` for the speed of opening and of encoding a file.
//
// A record: flags (1 byte), size (4 bytes, of this machine's order), size bytes. Flags: 1 add special tokens, 2 special tokens as plain
// text, 4 leave special tokens out in decoding, 8 the bytes are ids to decode. The answer: status (4 bytes), number of ids (4), ids (4
// each), size of the decoded text (4), the text. A refused record has the status and nothing more.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmlx/tokenizer.h>

// Processor time: other programs on the machine do not count.
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int fail(const char *what) {
  fprintf(stderr, "tokenize_lines: %s\n", what);
  return 1;
}

// Whether the ids fed one by one give the same text.
static bool streams_same(const zm_tokenizer *t, const int32_t *ids, uint32_t count, bool skip, const char *text, size_t size) {
  zm_detokenizer *d = zm_detokenizer_new(t, &(zm_decode_options){.skip_special = skip});
  size_t at = 0, length;
  const char *part;
  bool same = d != NULL;
  for (uint32_t i = 0; same && i <= count; i++) {
    zm_status status = i < count ? zm_detokenizer_add(d, ids[i], &part, &length) : zm_detokenizer_finish(d, &part, &length);
    same = status == ZM_OK && length <= size - at && memcmp(text + at, part, length) == 0;
    if (same) at += length;
  }
  zm_detokenizer_free(d);
  return same && at == size;
}

static int answer(const zm_tokenizer *t, uint8_t flags, const char *bytes, uint32_t size) {
  int32_t *ids = NULL, status;
  size_t count = 0, text_size = 0;
  char *text = NULL;
  if (flags & 8) {
    count = size / 4;
    ids = malloc(size + 4);
    memcpy(ids, bytes, size);
    status = ZM_OK;
  } else {
    zm_encode_options options = {.add_special = (flags & 1) != 0, .plain = (flags & 2) != 0};
    status = (int32_t)zm_tokenizer_encode(t, bytes, size, &options, &ids, &count);
  }
  bool skip = (flags & 4) != 0;
  if (status == ZM_OK) status = (int32_t)zm_tokenizer_decode(t, ids, count, &(zm_decode_options){.skip_special = skip}, &text, &text_size);
  fwrite(&status, 4, 1, stdout);
  if (status == ZM_OK) {
    uint32_t n = (uint32_t)count, m = (uint32_t)text_size;
    if (!streams_same(t, ids, n, skip, text, text_size)) return fail("the streamed text differs from the decoded one");
    fwrite(&n, 4, 1, stdout);
    fwrite(ids, 4, count, stdout);
    fwrite(&m, 4, 1, stdout);
    fwrite(text, 1, text_size, stdout);
  } else {
    fprintf(stderr, "tokenize_lines: %s\n", zm_last_error());
  }
  zm_text_free(text);
  if (flags & 8) free(ids);
  else zm_tokens_free(ids);
  return 0;
}

static int serve(const zm_tokenizer *t) {
  uint8_t flags;
  uint32_t size;
  while (fread(&flags, 1, 1, stdin) == 1 && fread(&size, 4, 1, stdin) == 1) {
    char *bytes = malloc((size_t)size + 1);
    if (!bytes || fread(bytes, 1, size, stdin) != size) return fail("a record is cut short");
    int bad = answer(t, flags, bytes, size);
    free(bytes);
    if (bad) return bad;
    fflush(stdout);
  }
  return 0;
}

static int compare_times(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

// Prints the median of opening, and of encoding the file, as often as the seconds allow.
static int measure(const char *tokenizer, const zm_tokenizer *t, const char *path, double seconds) {
  enum { MOST = 1000 };
  static double times[MOST];
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END)) return fail("the file to encode cannot be read");
  size_t size = (size_t)ftell(f), count = 0, n = 0;
  char *text = malloc(size + 1);
  rewind(f);
  if (!text || fread(text, 1, size, f) != size) return fail("the file to encode cannot be read");
  fclose(f);
  for (n = 0; n < 20; n++) {
    double start = now();
    zm_tokenizer *again = zm_tokenizer_open(tokenizer);
    times[n] = now() - start;
    if (!again) return fail(zm_last_error());
    zm_tokenizer_close(again);
  }
  qsort(times, n, sizeof *times, compare_times);
  printf("open %.3f ms\n", times[n / 2] * 1e3);
  double begin = now();
  for (n = 0; n < MOST && (n < 3 || now() - begin < seconds); n++) {
    int32_t *ids;
    double start = now();
    if (zm_tokenizer_encode(t, text, size, NULL, &ids, &count) != ZM_OK) return fail(zm_last_error());
    times[n] = now() - start;
    zm_tokens_free(ids);
  }
  qsort(times, n, sizeof *times, compare_times);
  printf("encode %zu bytes %zu ids %.3f ms %.2f MB/s\n", size, count, times[n / 2] * 1e3, (double)size / times[n / 2] * 1e-6);
  free(text);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 2 && !(argc == 5 && strcmp(argv[2], "--time") == 0)) return fail("usage: tokenize_lines TOKENIZER [--time FILE SECONDS]");
  zm_tokenizer *t = zm_tokenizer_open(argv[1]);
  if (!t) return fail(zm_last_error());
  int bad = argc == 2 ? serve(t) : measure(argv[1], t, argv[3], atof(argv[4]));
  zm_tokenizer_close(t);
  return bad;
}
