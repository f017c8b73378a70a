// Reads the vocabulary, the merges and the added tokens of a tokenizer.json, and makes the table of what each id decodes to.
#include "text/internal.h"

#include <stdio.h>
#include <string.h>

enum { MAX_ADDED_SIZE = 1024 };

// While loading: the text of each id, in the document or in `storage`.
typedef struct loader {
  zm_tokenizer *t;
  const zmi_json *doc;
  const zmi_json_node **words; // vocabulary entry of each id, NULL if none
  int32_t word_count;          // ids run below it
  zmi_buffer storage;          // contents of added tokens
} loader;

// ---- vocabulary ----

// A quick reading of the usual case; zmi_json_id tells what is wrong with the others.
static zm_status read_word_id(const zmi_json *doc, const zmi_json_node *node, int32_t *id) {
  char where[96];
  if (node->type == JSON_NUMBER && node->size <= 7) {
    int32_t value = 0;
    uint32_t i = 0;
    for (; i < node->size && node->text[i] >= '0' && node->text[i] <= '9'; i++) value = value * 10 + (node->text[i] - '0');
    if (i == node->size) {
      *id = value;
      return ZM_OK;
    }
  }
  snprintf(where, sizeof where, "model.vocab[\"%.*s\"]", (int)ZMI_MIN(node->key_size, 60u), node->key);
  return zmi_json_id(doc, node, where, id);
}

static zm_status load_vocabulary(loader *l, const zmi_json_node *vocab) {
  zmi_map *map = l->t->bpe.vocab = zmi_map_new();
  if (!map) return ZM_ERROR_MEMORY;
  int32_t id, size = 0;
  for (const zmi_json_node *n = zmi_json_child(l->doc, vocab); n; n = zmi_json_next(l->doc, n)) {
    zm_status status = read_word_id(l->doc, n, &id);
    if (status != ZM_OK) return status;
    if (!zmi_map_put(map, n->key, n->key_size, id)) return ZM_ERROR_MEMORY;
    size = ZMI_MAX(size, id + 1);
  }
  if (size == 0) return zmi_fail(ZM_ERROR_FORMAT, "%s: model.vocab has no tokens", l->doc->file);
  if ((uint32_t)size > 4 * vocab->count + (1 << 16))
    return zmi_fail(ZM_ERROR_FORMAT, "%s: model.vocab has %u tokens but ids up to %d; the file is damaged", l->doc->file, vocab->count,
                    size - 1);
  l->word_count = size;
  l->words = zmi_calloc((size_t)size, sizeof *l->words);
  if (!l->words) return ZM_ERROR_MEMORY;
  for (const zmi_json_node *n = zmi_json_child(l->doc, vocab); n; n = zmi_json_next(l->doc, n)) {
    zm_status status = read_word_id(l->doc, n, &id);
    if (status != ZM_OK) return status;
    const zmi_json_node *other = l->words[id];
    if (other)
      return zmi_fail(ZM_ERROR_FORMAT, "%s: model.vocab gives id %d to \"%.*s\" and to \"%.*s\"", l->doc->file, id,
                      (int)ZMI_MIN(other->key_size, 60u), other->key, (int)ZMI_MIN(n->key_size, 60u), n->key);
    l->words[id] = n;
  }
  if (zmi_map_size(map) == vocab->count) return ZM_OK;
  return zmi_fail(ZM_ERROR_FORMAT, "%s: model.vocab has a token twice (%u entries, %zu different ones)", l->doc->file, vocab->count,
                  zmi_map_size(map));
}

// ---- model ----

static zm_status optional_bool(const zmi_json *doc, const zmi_json_node *model, const char *key, bool *value) {
  *value = false;
  return zmi_json_get(doc, model, key) ? zmi_json_bool(doc, model, "model", key, value) : ZM_OK;
}

// Options that only other families use.
static zm_status refuse_options(const zmi_json *doc, const zmi_json_node *model) {
  static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
  for (size_t i = 0; i < ZMI_COUNT(affixes); i++) {
    const zmi_json_node *n = zmi_json_get(doc, model, affixes[i]);
    if (!n) continue;
    if (n->type != JSON_STRING) return zmi_json_fail(doc, "model", affixes[i], n, "a string or null");
    if (n->size)
      return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: model.%s \"%.*s\" is not supported", doc->file, affixes[i], (int)ZMI_MIN(n->size, 40u),
                      n->text);
  }
  const zmi_json_node *dropout = zmi_json_get(doc, model, "dropout");
  if (!dropout) return ZM_OK;
  if (dropout->type != JSON_NUMBER) return zmi_json_fail(doc, "model", "dropout", dropout, "a number or null");
  for (uint32_t i = 0; i < dropout->size; i++)
    if (dropout->text[i] >= '1' && dropout->text[i] <= '9')
      return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: model.dropout %.*s is not supported: encoding would be random", doc->file,
                      (int)ZMI_MIN(dropout->size, 20u), dropout->text);
  return ZM_OK;
}

static zm_status load_unknown(zmi_bpe *b, const zmi_json *doc, const zmi_json_node *model) {
  const zmi_json_node *n = zmi_json_get(doc, model, "unk_token");
  if (!n) return ZM_OK;
  if (n->type != JSON_STRING) return zmi_json_fail(doc, "model", "unk_token", n, "a string or null");
  int64_t id;
  b->has_unknown = true;
  b->unknown = zmi_map_get(b->vocab, n->text, n->size, &id) ? (int32_t)id : -1;
  b->unknown_name = zmi_malloc((size_t)n->size + 1);
  if (!b->unknown_name) return ZM_ERROR_MEMORY;
  memcpy(b->unknown_name, n->text, n->size);
  b->unknown_name[n->size] = 0;
  return ZM_OK;
}

static void find_byte_ids(zmi_bpe *b, bool byte_fallback) {
  for (int byte = 0; byte < 256; byte++) {
    int64_t id;
    char name[8];
    size_t size = zmi_utf8_put(zmi_byte_char((uint8_t)byte), name);
    b->byte_ids[byte] = zmi_map_get(b->vocab, name, size, &id) ? (int32_t)id : -1;
    snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
    b->fallback_ids[byte] = byte_fallback && zmi_map_get(b->vocab, name, strlen(name), &id) ? (int32_t)id : -1;
  }
}

static zm_status load_model(loader *l) {
  const zmi_json *doc = l->doc;
  zmi_bpe *b = &l->t->bpe;
  const zmi_json_node *model = zmi_json_get(doc, zmi_json_root(doc), "model");
  if (!model || model->type != JSON_OBJECT) return zmi_json_fail(doc, "model", NULL, model, "an object");
  const zmi_json_node *type = zmi_json_get(doc, model, "type");
  if (type && type->type != JSON_STRING) return zmi_json_fail(doc, "model", "type", type, "a string");
  if (type && !zmi_json_is(type, "BPE"))
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: model.type \"%.*s\" is not supported; byte pair encoding (\"BPE\") is", doc->file,
                    (int)ZMI_MIN(type->size, 40u), type->text);
  const zmi_json_node *vocab = zmi_json_get(doc, model, "vocab"), *merges = zmi_json_get(doc, model, "merges");
  if (!vocab || vocab->type != JSON_OBJECT) return zmi_json_fail(doc, "model", "vocab", vocab, "an object of tokens and ids");
  if (!merges || merges->type != JSON_ARRAY) return zmi_json_fail(doc, "model", "merges", merges, "an array of pairs");
  bool byte_fallback = false;
  zm_status status = refuse_options(doc, model);
  if (status == ZM_OK) status = optional_bool(doc, model, "fuse_unk", &b->fuse_unknown);
  if (status == ZM_OK) status = optional_bool(doc, model, "ignore_merges", &b->ignore_merges);
  if (status == ZM_OK) status = optional_bool(doc, model, "byte_fallback", &byte_fallback);
  if (status == ZM_OK) status = load_vocabulary(l, vocab);
  if (status == ZM_OK) status = load_unknown(b, doc, model);
  if (status == ZM_OK) status = zmi_bpe_make_merges(b, doc, merges);
  if (status == ZM_OK) find_byte_ids(b, byte_fallback);
  return status;
}

// ---- added tokens ----

// Stores the content and its normal form.
static zm_status store_content(loader *l, zmi_added_token *token, const zmi_json_node *content) {
  zm_tokenizer *t = l->t;
  token->content = token->normal = l->storage.size;
  token->content_size = token->normal_size = content->size;
  if (!zmi_buffer_add(&l->storage, content->text, content->size)) return ZM_ERROR_MEMORY;
  if (!token->normalized || t->normalizer_count == 0) return ZM_OK;
  zmi_normal_work work = {0};
  const char *text = content->text;
  size_t size = content->size;
  zmi_matcher *matcher = zmi_matcher_new(content->size);
  zm_status status = matcher ? zmi_normalize(t->normalizers, t->normalizer_count, &work, matcher, &text, &size) : ZM_ERROR_MEMORY;
  token->normal = l->storage.size;
  token->normal_size = size;
  if (status == ZM_OK && !zmi_buffer_add(&l->storage, text, size)) status = ZM_ERROR_MEMORY;
  zmi_matcher_free(matcher);
  zmi_normal_work_release(&work);
  return status;
}

// The id that the token gets: that of the vocabulary, else the next after it. The file says it too, and has to say the same.
static zm_status assign_id(loader *l, zmi_added_token *token, const zmi_json_node *content, const char *where, int32_t declared,
                           int32_t *next) {
  int64_t id;
  zm_tokenizer *t = l->t;
  if (!zmi_map_get(t->names, content->text, content->size, &id) && !zmi_map_get(t->bpe.vocab, content->text, content->size, &id))
    id = (*next)++;
  if (id != declared)
    return zmi_fail(ZM_ERROR_FORMAT,
                    "%s: %s: the token \"%.*s\" says id %d, but its place in the vocabulary gives it id %lld; mend the file", l->doc->file,
                    where, (int)ZMI_MIN(content->size, 60u), content->text, declared, (long long)id);
  token->id = (int32_t)id;
  return zmi_map_put(t->names, content->text, content->size, id) ? ZM_OK : ZM_ERROR_MEMORY;
}

static zm_status load_added(loader *l, const zmi_json_node *node, const char *where, int32_t *next) {
  const zmi_json *doc = l->doc;
  zm_tokenizer *t = l->t;
  zmi_added_token token = {0};
  const zmi_json_node *content;
  char id_where[64];
  int32_t declared;
  if (node->type != JSON_OBJECT) return zmi_json_fail(doc, where, NULL, node, "an object");
  zm_status status = zmi_json_string(doc, node, where, "content", &content);
  snprintf(id_where, sizeof id_where, "%.40s.id", where);
  if (status == ZM_OK) status = zmi_json_id(doc, zmi_json_get(doc, node, "id"), id_where, &declared);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "single_word", &token.single_word);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "lstrip", &token.lstrip);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "rstrip", &token.rstrip);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "normalized", &token.normalized);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "special", &token.special);
  if (status != ZM_OK || content->size == 0) return status; // an empty one is none
  if (content->size > MAX_ADDED_SIZE)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: %s: a token of %u bytes is too long (at most %d)", doc->file, where, content->size,
                    (int)MAX_ADDED_SIZE);
  int64_t seen;
  if (zmi_map_get(t->names, content->text, content->size, &seen))
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s: the token \"%.*s\" is added twice", doc->file, where, (int)ZMI_MIN(content->size, 60u),
                    content->text);
  status = assign_id(l, &token, content, where, declared, next);
  if (status == ZM_OK) status = store_content(l, &token, content);
  if (status != ZM_OK) return status;
  if (token.normal_size == 0 || token.normal_size > MAX_ADDED_SIZE * 8)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s: the normalizer turns the token \"%.*s\" into %zu bytes", doc->file, where,
                    (int)ZMI_MIN(content->size, 60u), content->text, token.normal_size);
  bool duplicate;
  zmi_trie *trie = token.normalized ? &t->normal_trie : &t->trie;
  status = zmi_trie_add(trie, l->storage.data + token.normal, token.normal_size, (int32_t)t->added_count, &duplicate);
  if (status != ZM_OK) return status;
  if (duplicate)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s: the token \"%.*s\" is the same as another one after normalization", doc->file, where,
                    (int)ZMI_MIN(content->size, 60u), content->text);
  t->added[t->added_count++] = token;
  return ZM_OK;
}

static zm_status load_all_added(loader *l) {
  zm_tokenizer *t = l->t;
  const zmi_json_node *list = zmi_json_get(l->doc, zmi_json_root(l->doc), "added_tokens");
  t->names = zmi_map_new();
  if (!t->names) return ZM_ERROR_MEMORY;
  if (!list) return ZM_OK;
  if (list->type != JSON_ARRAY) return zmi_json_fail(l->doc, "added_tokens", NULL, list, "an array");
  t->added = zmi_calloc((size_t)list->count + 1, sizeof *t->added);
  if (!t->added) return ZM_ERROR_MEMORY;
  int32_t next = (int32_t)zmi_map_size(t->bpe.vocab);
  size_t index = 0;
  for (const zmi_json_node *n = zmi_json_child(l->doc, list); n; n = zmi_json_next(l->doc, n), index++) {
    char where[40];
    snprintf(where, sizeof where, "added_tokens[%zu]", index);
    zm_status status = load_added(l, n, where, &next);
    if (status != ZM_OK) return status;
  }
  zmi_trie_finish(&t->trie);
  zmi_trie_finish(&t->normal_trie);
  return ZM_OK;
}

// ---- the table for decoding ----

// What a token decodes to: bytes where all its characters are of the byte alphabet, else its text.
static bool add_decoded(zmi_buffer *out, const char *text, size_t size, bool bytes) {
  size_t start = out->size;
  if (!ZMI_GROW(out->data, out->capacity, start + size + 1)) return false;
  for (const char *at = text; bytes && at < text + size;) {
    int byte = zmi_char_byte(zmi_utf8_next(&at));
    bytes = byte >= 0;
    if (bytes) out->data[out->size++] = (char)byte;
  }
  if (bytes) return true;
  out->size = start;
  return zmi_buffer_add(out, text, size);
}

static zm_status make_decode_table(loader *l) {
  zm_tokenizer *t = l->t;
  t->size = l->word_count;
  for (size_t i = 0; i < t->added_count; i++) t->size = ZMI_MAX(t->size, t->added[i].id + 1);
  size_t size = (size_t)t->size;
  uint32_t *added_at = zmi_calloc(size, sizeof *added_at); // index of the added token + 1
  t->token_at = zmi_calloc(size + 1, sizeof *t->token_at);
  t->special = zmi_calloc(size, sizeof *t->special);
  t->present = zmi_calloc(size, sizeof *t->present);
  zmi_buffer out = {0};
  bool good = added_at && t->token_at && t->special && t->present;
  for (size_t i = 0; good && i < t->added_count; i++) added_at[t->added[i].id] = (uint32_t)i + 1;
  for (size_t id = 0; good && id < size; id++) {
    const zmi_json_node *word = id < (size_t)l->word_count ? l->words[id] : NULL;
    const zmi_added_token *token = added_at[id] ? &t->added[added_at[id] - 1] : NULL;
    t->token_at[id] = out.size;
    t->present[id] = word || token;
    if (token) good = add_decoded(&out, l->storage.data + token->normal, token->normal_size, t->decoder == DECODER_BYTES);
    else if (word) good = add_decoded(&out, word->key, word->key_size, t->decoder == DECODER_BYTES);
    // A special token is known by its text: one whose normal form is another text is not left out, as in the reference.
    if (token && token->special)
      t->special[id] = token->normal_size == token->content_size &&
                       memcmp(l->storage.data + token->normal, l->storage.data + token->content, token->content_size) == 0;
  }
  if (good) t->token_at[size] = out.size;
  t->token_bytes = out.data;
  zmi_free(added_at);
  return good ? ZM_OK : ZM_ERROR_MEMORY;
}

zm_status zmi_load_tokenizer(zm_tokenizer *t, const zmi_json *doc) {
  const zmi_json_node *root = zmi_json_root(doc);
  if (root->type != JSON_OBJECT) return zmi_json_fail(doc, "the document", NULL, root, "an object");
  const zmi_json_node *version = zmi_json_get(doc, root, "version");
  if (version && !zmi_json_is(version, "1.0")) return zmi_json_fail(doc, "version", NULL, version, "\"1.0\"");
  loader l = {.t = t, .doc = doc};
  zm_status status = load_model(&l);
  if (status == ZM_OK) status = zmi_load_normalizer(t, doc);
  if (status == ZM_OK) status = zmi_load_pre_tokenizer(t, doc);
  if (status == ZM_OK) status = zmi_load_decoder(t, doc);
  if (status == ZM_OK) status = load_all_added(&l);
  if (status == ZM_OK) status = make_decode_table(&l);
  if (status == ZM_OK) status = zmi_load_post_processor(t, doc);
  zmi_free(l.words);
  zmi_free(l.storage.data);
  return status;
}
