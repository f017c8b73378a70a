// Tokenizers: byte-level BPE read from a Hugging Face tokenizer.json. Ids and texts are those of Hugging Face `tokenizers` 0.23;
// docs/tokenizers.md tells which parts of a file are known.
#ifndef ZMLX_TOKENIZER_H
#define ZMLX_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>
#include <zmlx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zm_tokenizer zm_tokenizer;
typedef struct zm_detokenizer zm_detokenizer;

// Opens tokenizer.json at `path`: the file itself or the folder that holds it (tokenizer_config.json beside it is read for the names of
// the special tokens). NULL on failure, which includes parts that are not supported. Truncation and padding that a file may ask for are
// not applied. The owner closes it. A tokenizer is immutable and may be used by many threads.
ZM_API zm_tokenizer *zm_tokenizer_open(const char *path);
ZM_API void zm_tokenizer_close(zm_tokenizer *t); // NULL is ignored

// Encodes `size` bytes of UTF-8 (zeros allowed inside). On success *ids (owned by the caller, released by zm_tokens_free) holds *count
// token ids. Invalid UTF-8 is refused with the offset of the first bad byte.
typedef struct zm_encode_options {
  bool add_special; // apply the post-processor's template (a beginning-of-text token where the tokenizer has one)
  bool plain;       // treat the text of special tokens as plain text instead of recognizing them
} zm_encode_options;
ZM_API zm_status zm_tokenizer_encode(const zm_tokenizer *t, const char *text, size_t size, const zm_encode_options *options, int32_t **ids,
                                     size_t *count);
ZM_API void zm_tokens_free(int32_t *ids);

// Decodes ids to UTF-8. *text (owned by the caller, released by zm_text_free) is zero-terminated; *size does not count the zero. Bytes
// that make no character give U+FFFD; ids within range that no token has give nothing; an id out of range is refused.
typedef struct zm_decode_options {
  bool skip_special; // leave special tokens out
} zm_decode_options;
ZM_API zm_status zm_tokenizer_decode(const zm_tokenizer *t, const int32_t *ids, size_t count, const zm_decode_options *options, char **text,
                                     size_t *size);
ZM_API void zm_text_free(char *text);

ZM_API int32_t zm_tokenizer_size(const zm_tokenizer *t);                  // ids run from 0 to size - 1
ZM_API int32_t zm_tokenizer_id(const zm_tokenizer *t, const char *token); // id of a token by its content, -1 if none
ZM_API bool zm_tokenizer_is_special(const zm_tokenizer *t, int32_t id);
ZM_API int32_t zm_tokenizer_bos(const zm_tokenizer *t); // -1 if the tokenizer names none
ZM_API int32_t zm_tokenizer_eos(const zm_tokenizer *t); // -1 if the tokenizer names none

// Streaming: feed one id at a time; *text points at the bytes that are now complete UTF-8 (possibly none), valid until the next call.
// Bytes of an unfinished character are held back; finish() hands out what is left, with U+FFFD for incomplete sequences.
ZM_API zm_detokenizer *zm_detokenizer_new(const zm_tokenizer *t, const zm_decode_options *options);
ZM_API zm_status zm_detokenizer_add(zm_detokenizer *d, int32_t id, const char **text, size_t *size);
ZM_API zm_status zm_detokenizer_finish(zm_detokenizer *d, const char **text, size_t *size);
ZM_API void zm_detokenizer_free(zm_detokenizer *d); // NULL is ignored

#ifdef __cplusplus
}
#endif
#endif
