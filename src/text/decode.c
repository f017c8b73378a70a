// Decoding ids to text, at once and one by one. Tokens of a byte-level vocabulary may end in the middle of a character: bytes are held back
// until the character is whole, and what never becomes one is replaced by U+FFFD, one for each maximal part of a character.
#include "text/internal.h"

#include <string.h>

enum { LONGEST_CHAR = 4 };

struct zm_detokenizer {
  const zm_tokenizer *t;
  bool skip_special, started; // started: a token was written, the next one may need a space before it
  uint8_t held[LONGEST_CHAR]; // the beginning of a character
  size_t held_size;
  zmi_buffer bytes; // held bytes and a token's
  zmi_text text;    // what the latest call handed out
};

// Appends the whole characters of bytes[0..size) and U+FFFD for errors. Returns how many bytes at the end are the beginning of a character.
static size_t add_valid(zmi_text *out, const uint8_t *bytes, size_t size) {
  size_t done = 0, at = 0, taken;
  if (size == 0) return 0;
  while (at < size) {
    if (bytes[at] < 0x80) {
      at++;
      continue;
    }
    int kind = zmi_utf8_step(bytes + at, size - at, &taken);
    if (kind == 1) {
      at += taken;
      continue;
    }
    zmi_text_add_bytes(out, bytes + done, at - done);
    if (kind < 0) return size - at;
    zmi_text_add_bytes(out, "\xef\xbf\xbd", 3);
    at += taken;
    done = at;
  }
  zmi_text_add_bytes(out, bytes + done, size - done);
  return 0;
}

static zm_status check_id(const zm_tokenizer *t, int32_t id, size_t index) {
  if (id >= 0 && id < t->size) return ZM_OK;
  return zmi_fail(ZM_ERROR_ARGUMENT,
                  "tokenizer: id %d (number %zu of those to decode) is outside of the vocabulary, which has ids from 0 to %d", id, index,
                  t->size - 1);
}

// The id's bytes; false if it gives none, a left-out token or an id without a token.
static bool token_bytes(const zm_tokenizer *t, int32_t id, bool skip_special, const char **bytes, size_t *size) {
  *bytes = t->token_bytes + t->token_at[id];
  *size = t->token_at[id + 1] - t->token_at[id];
  return t->present[id] && !(skip_special && t->special[id]);
}

zm_status zm_tokenizer_decode(const zm_tokenizer *t, const int32_t *ids, size_t count, const zm_decode_options *options, char **text,
                              size_t *size) {
  if (!t || (!ids && count) || !text || !size)
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_tokenizer_decode: the tokenizer, ids, text or size is NULL");
  bool skip_special = options && options->skip_special, first = true;
  zmi_buffer all = {0};
  zmi_text out = {0};
  zm_status status = ZM_OK;
  for (size_t i = 0; i < count && status == ZM_OK; i++) {
    const char *bytes;
    size_t length;
    status = check_id(t, ids[i], i);
    if (status != ZM_OK || !token_bytes(t, ids[i], skip_special, &bytes, &length)) continue;
    bool good = first || t->decoder != DECODER_JOIN_BY_SPACE || zmi_buffer_add(&all, " ", 1);
    if (!good || !zmi_buffer_add(&all, bytes, length)) status = ZM_ERROR_MEMORY;
    first = false;
  }
  if (status == ZM_OK) {
    size_t rest = add_valid(&out, (const uint8_t *)all.data, all.size);
    if (rest) zmi_text_add_bytes(&out, "\xef\xbf\xbd", 3);
    zmi_text_add_bytes(&out, "", 0); // makes sure that there is a text
    if (out.failed) status = ZM_ERROR_MEMORY;
  }
  zmi_free(all.data);
  if (status != ZM_OK) {
    zmi_text_release(&out);
    return status;
  }
  *text = out.data;
  *size = out.size;
  return ZM_OK;
}

void zm_text_free(char *text) { zmi_free(text); }

zm_detokenizer *zm_detokenizer_new(const zm_tokenizer *t, const zm_decode_options *options) {
  if (!t) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_detokenizer_new: the tokenizer is NULL");
    return NULL;
  }
  zm_detokenizer *d = zmi_calloc(1, sizeof *d);
  if (!d) return NULL;
  d->t = t;
  d->skip_special = options && options->skip_special;
  return d;
}

zm_status zm_detokenizer_add(zm_detokenizer *d, int32_t id, const char **text, size_t *size) {
  if (!d || !text || !size) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_detokenizer_add: the detokenizer, text or size is NULL");
  const char *bytes;
  size_t length;
  zm_status status = check_id(d->t, id, 0);
  if (status != ZM_OK) return status;
  d->bytes.size = d->text.size = 0;
  d->text.failed = false;
  if (token_bytes(d->t, id, d->skip_special, &bytes, &length)) {
    bool space = d->started && d->t->decoder == DECODER_JOIN_BY_SPACE;
    if (!zmi_buffer_add(&d->bytes, (const char *)d->held, d->held_size) || !zmi_buffer_add(&d->bytes, " ", space) ||
        !zmi_buffer_add(&d->bytes, bytes, length))
      return ZM_ERROR_MEMORY;
    size_t rest = add_valid(&d->text, (const uint8_t *)d->bytes.data, d->bytes.size);
    if (d->text.failed) return ZM_ERROR_MEMORY; // the token was not taken
    d->held_size = rest;
    if (rest) memcpy(d->held, d->bytes.data + d->bytes.size - rest, rest);
    d->started = true;
  }
  *text = d->text.size ? d->text.data : "";
  *size = d->text.size;
  return ZM_OK;
}

zm_status zm_detokenizer_finish(zm_detokenizer *d, const char **text, size_t *size) {
  if (!d || !text || !size) return zmi_fail(ZM_ERROR_ARGUMENT, "zm_detokenizer_finish: the detokenizer, text or size is NULL");
  *text = d->held_size ? "\xef\xbf\xbd" : "";
  *size = d->held_size ? 3 : 0;
  d->held_size = 0;
  d->started = false;
  return ZM_OK;
}

void zm_detokenizer_free(zm_detokenizer *d) {
  if (!d) return;
  zmi_free(d->bytes.data);
  zmi_text_release(&d->text);
  zmi_free(d);
}
