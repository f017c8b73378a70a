// Any bytes as tokenizer.json, behind a zero byte a text: the file is refused with a message, or the text is encoded to ids within range
// that decode, at once and streamed, to the same bytes.
#define _GNU_SOURCE
#include <sys/mman.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zmlx/tokenizer.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static zm_tokenizer *open_bytes(const uint8_t *data, size_t size) {
  char path[64];
  zm_tokenizer *t = NULL;
  int file = memfd_create("tokenizer.json", 0);
  if (file < 0) return NULL;
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  if (write(file, data, size) == (ssize_t)size) {
    t = zm_tokenizer_open(path);
    if (t == NULL && (zm_last_status() == ZM_OK || zm_last_error()[0] == 0)) abort();
  }
  close(file);
  return t;
}

// Streaming shows what decoding at once shows.
static void check_stream(const zm_tokenizer *t, const int32_t *ids, size_t count, const char *whole, size_t whole_size) {
  zm_detokenizer *d = zm_detokenizer_new(t, NULL);
  const char *text = NULL;
  size_t size = 0, at = 0;
  if (d == NULL) return;
  for (size_t i = 0; i <= count; i++) {
    if ((i < count ? zm_detokenizer_add(d, ids[i], &text, &size) : zm_detokenizer_finish(d, &text, &size)) != ZM_OK) abort();
    if (size > whole_size - at || memcmp(whole + at, text, size) != 0) abort();
    at += size;
  }
  if (at != whole_size) abort();
  zm_detokenizer_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *end = size > 0 ? memchr(data, 0, size) : NULL;
  const char *text = end != NULL ? (const char *)end + 1 : "It's 1234 \xc3\xa9t\xc3\xa9s,  \r\n\t don't \xf0\x9f\x98\x80!<s>";
  size_t text_size = end != NULL ? (size_t)(data + size - (end + 1)) : strlen(text);
  zm_tokenizer *t = open_bytes(data, end != NULL ? (size_t)(end - data) : size);
  if (t == NULL) return 0;
  int32_t *ids = NULL;
  size_t count = 0;
  if (zm_tokenizer_encode(t, text, text_size, &(zm_encode_options){.add_special = true}, &ids, &count) == ZM_OK) {
    char *decoded = NULL;
    size_t decoded_size = 0;
    for (size_t i = 0; i < count; i++) {
      if (ids[i] < 0 || ids[i] >= zm_tokenizer_size(t)) abort();
    }
    if (zm_tokenizer_decode(t, ids, count, NULL, &decoded, &decoded_size) != ZM_OK || decoded[decoded_size] != 0) abort();
    check_stream(t, ids, count, decoded, decoded_size);
    zm_text_free(decoded);
    zm_tokens_free(ids);
  } else if (zm_last_error()[0] == 0) {
    abort();
  }
  zm_tokenizer_close(t);
  return 0;
}
