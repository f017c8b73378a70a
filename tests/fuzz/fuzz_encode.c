// Any bytes as a text for the shipped tokenizer: what is not UTF-8 is refused, everything else comes back from its ids byte by byte.
#include <stdlib.h>
#include <string.h>
#include <zmlx/tokenizer.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_stream(const zm_tokenizer *t, const int32_t *ids, size_t count, const char *whole, size_t whole_size) {
  zm_detokenizer *d = zm_detokenizer_new(t, NULL);
  const char *text = NULL;
  size_t size = 0, at = 0;
  if (d == NULL) abort();
  for (size_t i = 0; i <= count; i++) {
    if ((i < count ? zm_detokenizer_add(d, ids[i], &text, &size) : zm_detokenizer_finish(d, &text, &size)) != ZM_OK) abort();
    if (at + size > whole_size || memcmp(whole + at, text, size) != 0) abort();
    at += size;
  }
  if (at != whole_size) abort();
  zm_detokenizer_free(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static zm_tokenizer *t;
  const char *text = (const char *)data;
  if (t == NULL && (t = zm_tokenizer_open("checkpoints/storyteller-4bit")) == NULL) abort();
  for (int plain = 0; plain < 2; plain++) {
    int32_t *ids = NULL;
    size_t count = 0, decoded_size = 0;
    char *decoded = NULL;
    if (zm_tokenizer_encode(t, text, size, &(zm_encode_options){.plain = plain != 0}, &ids, &count) != ZM_OK) {
      if (zm_last_error()[0] == 0) abort();
      continue;
    }
    if (zm_tokenizer_decode(t, ids, count, NULL, &decoded, &decoded_size) != ZM_OK) abort();
    if (decoded_size != size || (size > 0 && memcmp(decoded, text, size) != 0)) abort();
    check_stream(t, ids, count, decoded, decoded_size);
    zm_text_free(decoded);
    zm_tokens_free(ids);
  }
  return 0;
}
