// Encoding: finds added tokens, normalizes what is between them, runs the pre-tokenizer and the model, and applies the template.
#include "text/internal.h"

#include <string.h>

// Texts from this size on get a cache of the pieces seen.
enum { CACHE_FROM = 1500 };

typedef zm_status (*section_fn)(zmi_encoder *e, bool plain, const char *text, size_t size);

static bool put_id(zmi_bpe_work *w, int32_t id) {
  if (!ZMI_GROW(w->ids, w->capacity, w->count + 1)) return false;
  w->ids[w->count++] = id;
  return true;
}

static bool inside_word(const char *text, size_t size, size_t start, size_t end) {
  size_t length;
  const char *after = text + end;
  return (start > 0 && zmi_is_word(zmi_utf8_before(text, text + start, &length))) || (end < size && zmi_is_word(zmi_utf8_next(&after)));
}

// Cuts a text at the added tokens of a trie and gives what is between them to `section`.
static zm_status cut(zmi_encoder *e, const zmi_trie *trie, bool plain, const char *text, size_t size, section_fn section) {
  size_t done = 0, from = 0, start, end;
  zm_status status = ZM_OK;
  int32_t index;
  while (status == ZM_OK && (index = zmi_trie_find(trie, text, size, from, &start, &end)) >= 0) {
    const zmi_added_token *token = &e->t->added[index];
    from = end;
    if (plain && token->special) continue;
    if (token->single_word && inside_word(text, size, start, end)) continue;
    size_t length;
    while (token->lstrip && start > 0 && zmi_is_white(zmi_utf8_before(text, text + start, &length))) start -= length;
    if (token->lstrip && start < done) start = done; // the token before has those spaces
    for (const char *at = text + end; token->rstrip && end < size && zmi_is_white(zmi_utf8_next(&at));) end = (size_t)(at - text);
    if (done < start) status = section(e, plain, text + done, start - done);
    if (status == ZM_OK && !put_id(&e->work, token->id)) status = ZM_ERROR_MEMORY;
    done = end;
  }
  return status == ZM_OK && done < size ? section(e, plain, text + done, size - done) : status;
}

static zm_status pre_tokenize(zmi_encoder *e, bool plain, const char *text, size_t size) {
  (void)plain;
  return zmi_split(e, 0, text, size);
}

static zm_status normalize(zmi_encoder *e, bool plain, const char *text, size_t size) {
  zm_status status = zmi_normalize(e->t->normalizers, e->t->normalizer_count, &e->normal, e->matcher, &text, &size);
  return status == ZM_OK ? cut(e, &e->t->normal_trie, plain, text, size, pre_tokenize) : status;
}

// Puts the template's tokens around the text's ids. The list may have the text twice or not at all.
static zm_status apply_template(const zm_tokenizer *t, bool add_special, int32_t **ids, size_t *count) {
  size_t total = 0, at = 0;
  for (size_t i = 0; i < t->template_count; i++) {
    size_t more = t->template_ids[i] == ZMI_TEMPLATE_TEXT ? *count : add_special;
    if (zmi_add_overflow(total, more, &total) || total > SIZE_MAX / 8)
      return zmi_fail(ZM_ERROR_MEMORY, "out of memory: the template repeats the text too often");
  }
  int32_t *out = zmi_malloc((total + 1) * sizeof *out);
  if (!out) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < t->template_count; i++) {
    if (t->template_ids[i] != ZMI_TEMPLATE_TEXT) {
      if (add_special) out[at++] = t->template_ids[i];
    } else if (*count) {
      memcpy(out + at, *ids, *count * sizeof *out);
      at += *count;
    }
  }
  zmi_free(*ids);
  *ids = out;
  *count = total;
  return ZM_OK;
}

static zm_status prepare(zmi_encoder *e, size_t size) {
  e->matcher = zmi_matcher_new(size);
  if (!e->matcher) return ZM_ERROR_MEMORY;
  if (e->t->stage_count && !(e->stage_text = zmi_calloc(e->t->stage_count, sizeof *e->stage_text))) return ZM_ERROR_MEMORY;
  if (size >= CACHE_FROM && !(e->work.cache = zmi_word_cache_new())) return ZM_ERROR_MEMORY;
  // About a token in four bytes; also makes sure that there is an array.
  return ZMI_GROW(e->work.ids, e->work.capacity, size / 3 + 16) ? ZM_OK : ZM_ERROR_MEMORY;
}

static void release(zmi_encoder *e) {
  zmi_matcher_free(e->matcher);
  zmi_normal_work_release(&e->normal);
  zmi_bpe_work_release(&e->work);
  for (size_t i = 0; e->stage_text && i < e->t->stage_count; i++) zmi_free(e->stage_text[i].data);
  zmi_free(e->stage_text);
}

zm_status zm_tokenizer_encode(const zm_tokenizer *t, const char *text, size_t size, const zm_encode_options *options, int32_t **ids,
                              size_t *count) {
  static const zm_encode_options defaults = {0};
  if (!t || !ids || !count || (!text && size))
    return zmi_fail(ZM_ERROR_ARGUMENT, "zm_tokenizer_encode: the tokenizer, text, ids or count is NULL");
  if (!options) options = &defaults;
  if (size > SIZE_MAX / 64) return zmi_fail(ZM_ERROR_LIMIT, "tokenizer: a text of %zu bytes is too long", size);
  size_t bad;
  if (!zmi_utf8_check(text, size, &bad))
    return zmi_fail(ZM_ERROR_FORMAT, "tokenizer: the text is not UTF-8: byte 0x%02x at offset %zu; convert it to UTF-8", (uint8_t)text[bad],
                    bad);
  zmi_encoder e = {.t = t};
  zm_status status = prepare(&e, size);
  if (status == ZM_OK) status = cut(&e, &t->trie, options->plain, text, size, normalize);
  if (status == ZM_OK && t->has_template) status = apply_template(t, options->add_special, &e.work.ids, &e.work.count);
  release(&e);
  if (status != ZM_OK) {
    zmi_free(e.work.ids);
    return status;
  }
  *ids = e.work.ids;
  *count = e.work.count;
  return ZM_OK;
}

void zm_tokens_free(int32_t *ids) { zmi_free(ids); }
