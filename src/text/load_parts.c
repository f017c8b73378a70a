// Reads the normalizer, pre-tokenizer, post-processor and decoder of a tokenizer.json. Each kind of part is a row in a table; what is in
// no table is refused by name.
#include "text/internal.h"

#include <stdio.h>
#include <string.h>

enum { WHERE_SIZE = 96, MAX_TEMPLATE = 256 };

typedef zm_status (*part_fn)(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where);
typedef struct part {
  const char *type;
  part_fn load;
} part;

static zm_status load_part(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where, const part *parts,
                           size_t count) {
  const zmi_json_node *type;
  if (node->type != JSON_OBJECT) return zmi_json_fail(doc, where, NULL, node, "an object");
  zm_status status = zmi_json_string(doc, node, where, "type", &type);
  if (status != ZM_OK) return status;
  for (size_t i = 0; i < count; i++)
    if (zmi_json_is(type, parts[i].type)) return parts[i].load(t, doc, node, where);
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: %s.type \"%.*s\" is not supported", doc->file, where, (int)ZMI_MIN(type->size, 40u),
                  type->text);
}

// The parts of a sequence, in order.
static zm_status load_list(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where, const char *key,
                           const part *parts, size_t count) {
  const zmi_json_node *list = zmi_json_get(doc, node, key);
  if (!list || list->type != JSON_ARRAY) return zmi_json_fail(doc, where, key, list, "an array");
  size_t index = 0;
  for (const zmi_json_node *n = zmi_json_child(doc, list); n; n = zmi_json_next(doc, n), index++) {
    char place[WHERE_SIZE];
    snprintf(place, sizeof place, "%.50s.%.20s[%zu]", where, key, index);
    zm_status status = load_part(t, doc, n, place, parts, count);
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}

static zm_status copy_string(const zmi_json_node *node, char **text, size_t *size) {
  *text = zmi_malloc((size_t)node->size + 1);
  if (!*text) return ZM_ERROR_MEMORY;
  memcpy(*text, node->text, node->size);
  (*text)[node->size] = 0;
  *size = node->size;
  return ZM_OK;
}

// {"String": "..."} or {"Regex": "..."}; a string is searched for without a regex, unless it is empty.
static zm_status load_pattern(const zmi_json *doc, const zmi_json_node *node, const char *where, zmi_regex **regex, char **string,
                              size_t *size) {
  const zmi_json_node *pattern = zmi_json_get(doc, node, "pattern");
  const zmi_json_node *text = pattern ? zmi_json_get(doc, pattern, "String") : NULL;
  const zmi_json_node *source = pattern ? zmi_json_get(doc, pattern, "Regex") : NULL;
  if (!pattern || pattern->count != 1 || !(text ? text->type == JSON_STRING : source && source->type == JSON_STRING))
    return zmi_json_fail(doc, where, "pattern", pattern, "{\"Regex\": \"...\"} or {\"String\": \"...\"}");
  if (text && text->size) return copy_string(text, string, size);
  *regex = text ? zmi_regex_new("", 0) : zmi_regex_new(source->text, source->size);
  return *regex ? ZM_OK : zmi_fail_within("%s: %s.pattern", doc->file, where);
}

// ---- normalizers ----

static zm_status new_normalizer(zm_tokenizer *t, const zmi_json *doc, const char *where, zmi_normalizer_kind kind, zmi_normalizer **n) {
  if (!t->normalizers) t->normalizers = zmi_calloc(ZMI_MAX_NORMALIZERS, sizeof *t->normalizers);
  if (!t->normalizers) return ZM_ERROR_MEMORY;
  if (t->normalizer_count == ZMI_MAX_NORMALIZERS)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: %s: more than %d normalizers are not supported", doc->file, where, (int)ZMI_MAX_NORMALIZERS);
  *n = &t->normalizers[t->normalizer_count++];
  (*n)->kind = kind;
  return ZM_OK;
}

#define SIMPLE_NORMALIZER(name, kind)                                                                                       \
  static zm_status name(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {              \
    zmi_normalizer *n = NULL;                                                                                                    \
    (void)node;                                                                                                             \
    return new_normalizer(t, doc, where, kind, &n);                                                                         \
  }
SIMPLE_NORMALIZER(load_nfc, NORMALIZE_NFC)
SIMPLE_NORMALIZER(load_nfd, NORMALIZE_NFD)
SIMPLE_NORMALIZER(load_nfkc, NORMALIZE_NFKC)
SIMPLE_NORMALIZER(load_nfkd, NORMALIZE_NFKD)
SIMPLE_NORMALIZER(load_lowercase, NORMALIZE_LOWERCASE)
SIMPLE_NORMALIZER(load_byte_normalizer, NORMALIZE_BYTES)

static zm_status load_strip(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_normalizer *n = NULL;
  zm_status status = new_normalizer(t, doc, where, NORMALIZE_STRIP, &n);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "strip_left", &n->left);
  return status == ZM_OK ? zmi_json_bool(doc, node, where, "strip_right", &n->right) : status;
}

static zm_status load_prepend(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_normalizer *n = NULL;
  const zmi_json_node *text;
  zm_status status = new_normalizer(t, doc, where, NORMALIZE_PREPEND, &n);
  if (status == ZM_OK) status = zmi_json_string(doc, node, where, "prepend", &text);
  return status == ZM_OK ? copy_string(text, &n->content, &n->content_size) : status;
}

static zm_status load_replace(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_normalizer *n = NULL;
  const zmi_json_node *text;
  zm_status status = new_normalizer(t, doc, where, NORMALIZE_REPLACE, &n);
  if (status == ZM_OK) status = load_pattern(doc, node, where, &n->regex, &n->pattern, &n->pattern_size);
  if (status == ZM_OK) status = zmi_json_string(doc, node, where, "content", &text);
  return status == ZM_OK ? copy_string(text, &n->content, &n->content_size) : status;
}

static zm_status load_normalizers(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where);
static const part normalizer_parts[] = {
  {"NFC", load_nfc}, {"NFD", load_nfd}, {"NFKC", load_nfkc}, {"NFKD", load_nfkd}, {"Lowercase", load_lowercase}, {"Strip", load_strip},
  {"Prepend", load_prepend}, {"Replace", load_replace}, {"ByteLevel", load_byte_normalizer}, {"Sequence", load_normalizers},
};

static zm_status load_normalizers(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  return load_list(t, doc, node, where, "normalizers", normalizer_parts, ZMI_COUNT(normalizer_parts));
}

zm_status zmi_load_normalizer(zm_tokenizer *t, const zmi_json *doc) {
  const zmi_json_node *node = zmi_json_get(doc, zmi_json_root(doc), "normalizer");
  return node ? load_part(t, doc, node, "normalizer", normalizer_parts, ZMI_COUNT(normalizer_parts)) : ZM_OK;
}

// ---- pre-tokenizers ----

static zm_status new_stage(zm_tokenizer *t, const zmi_json *doc, const char *where, zmi_stage_kind kind, zmi_stage **stage) {
  if (!t->stages) t->stages = zmi_calloc(ZMI_MAX_STAGES, sizeof *t->stages);
  if (!t->stages) return ZM_ERROR_MEMORY;
  if (t->stage_count == ZMI_MAX_STAGES)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: %s: more than %d steps of pre-tokenizing are not supported", doc->file, where,
                    (int)ZMI_MAX_STAGES);
  *stage = &t->stages[t->stage_count++];
  (*stage)->kind = kind;
  return ZM_OK;
}

static zm_status load_behavior(const zmi_json *doc, const zmi_json_node *node, const char *where, zmi_behavior *behavior) {
  static const char *const names[] = {[BEHAVIOR_ISOLATED] = "Isolated",
                                      [BEHAVIOR_REMOVED] = "Removed",
                                      [BEHAVIOR_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
                                      [BEHAVIOR_MERGED_WITH_NEXT] = "MergedWithNext",
                                      [BEHAVIOR_CONTIGUOUS] = "Contiguous"};
  const zmi_json_node *name = zmi_json_get(doc, node, "behavior");
  for (size_t i = 0; name && i < ZMI_COUNT(names); i++) {
    if (!zmi_json_is(name, names[i])) continue;
    *behavior = (zmi_behavior)i;
    return ZM_OK;
  }
  return zmi_json_fail(doc, where, "behavior", name, "Isolated, Removed, MergedWithPrevious, MergedWithNext or Contiguous");
}

static zm_status load_split(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_stage *stage = NULL;
  zm_status status = new_stage(t, doc, where, STAGE_REGEX, &stage);
  if (status == ZM_OK) status = load_pattern(doc, node, where, &stage->regex, &stage->string, &stage->string_size);
  if (status == ZM_OK && stage->string) stage->kind = STAGE_STRING;
  if (status == ZM_OK) status = load_behavior(doc, node, where, &stage->behavior);
  return status == ZM_OK ? zmi_json_bool(doc, node, where, "invert", &stage->invert) : status;
}

static zm_status load_byte_level(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  static const char words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
  bool prefix_space, use_regex = true;
  zmi_stage *stage = NULL;
  zm_status status = zmi_json_bool(doc, node, where, "add_prefix_space", &prefix_space);
  if (status == ZM_OK && zmi_json_get(doc, node, "use_regex")) status = zmi_json_bool(doc, node, where, "use_regex", &use_regex);
  if (status == ZM_OK && prefix_space) status = new_stage(t, doc, where, STAGE_PREFIX_SPACE, &stage);
  if (status == ZM_OK && use_regex) {
    status = new_stage(t, doc, where, STAGE_REGEX, &stage);
    if (status == ZM_OK) stage->regex = zmi_regex_new(words, sizeof words - 1);
    if (status == ZM_OK && !stage->regex) status = zmi_fail_within("%s: %s", doc->file, where);
  }
  return status == ZM_OK ? new_stage(t, doc, where, STAGE_BYTES, &stage) : status;
}

static zm_status load_digits(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_stage *stage = NULL;
  bool single;
  zm_status status = new_stage(t, doc, where, STAGE_DIGITS, &stage);
  if (status == ZM_OK) status = zmi_json_bool(doc, node, where, "individual_digits", &single);
  if (status == ZM_OK) stage->behavior = single ? BEHAVIOR_ISOLATED : BEHAVIOR_CONTIGUOUS;
  return status;
}

static zm_status load_words(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_stage *stage = NULL;
  (void)node;
  zm_status status = new_stage(t, doc, where, STAGE_WORDS, &stage);
  if (status == ZM_OK) stage->behavior = BEHAVIOR_REMOVED, stage->invert = true;
  return status;
}

static zm_status load_white(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  zmi_stage *stage = NULL;
  (void)node;
  zm_status status = new_stage(t, doc, where, STAGE_WHITE, &stage);
  if (status == ZM_OK) stage->behavior = BEHAVIOR_REMOVED;
  return status;
}

static zm_status load_pre_tokenizers(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where);
static const part pre_tokenizer_parts[] = {
  {"Split", load_split},      {"ByteLevel", load_byte_level},  {"Digits", load_digits},
  {"Whitespace", load_words}, {"WhitespaceSplit", load_white}, {"Sequence", load_pre_tokenizers},
};

static zm_status load_pre_tokenizers(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  return load_list(t, doc, node, where, "pretokenizers", pre_tokenizer_parts, ZMI_COUNT(pre_tokenizer_parts));
}

zm_status zmi_load_pre_tokenizer(zm_tokenizer *t, const zmi_json *doc) {
  const zmi_json_node *node = zmi_json_get(doc, zmi_json_root(doc), "pre_tokenizer");
  zm_status status = node ? load_part(t, doc, node, "pre_tokenizer", pre_tokenizer_parts, ZMI_COUNT(pre_tokenizer_parts)) : ZM_OK;
  // A byte-level step at the end is left to the model, which then reads plain bytes.
  if (status == ZM_OK && t->stage_count && t->stages[t->stage_count - 1].kind == STAGE_BYTES) {
    t->stage_count--;
    t->bpe.bytes = true;
  }
  return status;
}

// ---- post-processors ----

static zm_status add_template(zm_tokenizer *t, const zmi_json *doc, const char *where, int32_t id) {
  if (id != ZMI_TEMPLATE_TEXT && (id >= t->size || !t->present[id]))
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s names id %d, which no token has", doc->file, where, id);
  if (t->template_count == MAX_TEMPLATE)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: %s puts more than %d tokens around a text", doc->file, where, (int)MAX_TEMPLATE);
  if (!t->template_ids) t->template_ids = zmi_calloc(MAX_TEMPLATE, sizeof *t->template_ids);
  if (!t->template_ids) return ZM_ERROR_MEMORY;
  t->template_ids[t->template_count++] = id;
  return ZM_OK;
}

static zm_status begin_template(zm_tokenizer *t, const zmi_json *doc, const char *where) {
  if (t->has_template)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: %s: a second template in one post-processor is not supported", doc->file, where);
  t->has_template = true;
  return ZM_OK;
}

static zm_status load_special(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *processor, const zmi_json_node *name,
                              const char *where) {
  const zmi_json_node *all = zmi_json_get(doc, processor, "special_tokens"), *ids = NULL;
  if (!all || all->type != JSON_OBJECT) return zmi_json_fail(doc, where, "special_tokens", all, "an object");
  for (const zmi_json_node *n = zmi_json_child(doc, all); n; n = zmi_json_next(doc, n))
    if (n->key_size == name->size && memcmp(n->key, name->text, name->size) == 0) ids = zmi_json_get(doc, n, "ids");
  if (!ids || ids->type != JSON_ARRAY)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s uses the token \"%.*s\", whose ids special_tokens does not tell", doc->file, where,
                    (int)ZMI_MIN(name->size, 60u), name->text);
  for (const zmi_json_node *n = zmi_json_child(doc, ids); n; n = zmi_json_next(doc, n)) {
    int32_t id;
    zm_status status = zmi_json_id(doc, n, where, &id);
    if (status == ZM_OK) status = add_template(t, doc, where, id);
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}

static zm_status load_template(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  static const char expected[] = "{\"Sequence\": {\"id\": \"A\"}} or {\"SpecialToken\": {\"id\": \"...\"}}";
  const zmi_json_node *single = zmi_json_get(doc, node, "single");
  zm_status status = begin_template(t, doc, where);
  if (status != ZM_OK) return status;
  if (!single || single->type != JSON_ARRAY) return zmi_json_fail(doc, where, "single", single, "an array");
  size_t index = 0;
  for (const zmi_json_node *n = zmi_json_child(doc, single); n && status == ZM_OK; n = zmi_json_next(doc, n), index++) {
    char place[WHERE_SIZE];
    snprintf(place, sizeof place, "%.70s.single[%zu]", where, index);
    const zmi_json_node *text = zmi_json_get(doc, n, "Sequence"), *special = zmi_json_get(doc, n, "SpecialToken");
    const zmi_json_node *id = text ? zmi_json_get(doc, text, "id") : special ? zmi_json_get(doc, special, "id") : NULL;
    if (!id || id->type != JSON_STRING || (text && !zmi_json_is(id, "A"))) return zmi_json_fail(doc, place, NULL, n, expected);
    status = text ? add_template(t, doc, place, ZMI_TEMPLATE_TEXT) : load_special(t, doc, node, id, place);
  }
  return status;
}

// {"cls": ["<s>", 0], "sep": ["</s>", 2]} of BERT and RoBERTa.
static zm_status load_frame(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  static const char *const keys[] = {"cls", "sep"};
  zm_status status = begin_template(t, doc, where);
  for (size_t i = 0; i < ZMI_COUNT(keys) && status == ZM_OK; i++) {
    const zmi_json_node *pair = zmi_json_get(doc, node, keys[i]);
    if (!pair || pair->type != JSON_ARRAY || pair->count != 2)
      return zmi_json_fail(doc, where, keys[i], pair, "an array of a token and its id");
    int32_t id;
    status = zmi_json_id(doc, zmi_json_next(doc, zmi_json_child(doc, pair)), where, &id);
    if (status == ZM_OK) status = add_template(t, doc, where, id);
    if (status == ZM_OK && i == 0) status = add_template(t, doc, where, ZMI_TEMPLATE_TEXT);
  }
  return status;
}

// Moves offsets only, and there are none here.
static zm_status load_byte_offsets(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  (void)t, (void)doc, (void)node, (void)where;
  return ZM_OK;
}

static zm_status load_processors(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where);
static const part post_processor_parts[] = {
  {"TemplateProcessing", load_template}, {"ByteLevel", load_byte_offsets}, {"RobertaProcessing", load_frame},
  {"BertProcessing", load_frame},        {"Sequence", load_processors},
};

static zm_status load_processors(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  return load_list(t, doc, node, where, "processors", post_processor_parts, ZMI_COUNT(post_processor_parts));
}

zm_status zmi_load_post_processor(zm_tokenizer *t, const zmi_json *doc) {
  const zmi_json_node *node = zmi_json_get(doc, zmi_json_root(doc), "post_processor");
  return node ? load_part(t, doc, node, "post_processor", post_processor_parts, ZMI_COUNT(post_processor_parts)) : ZM_OK;
}

// ---- decoders ----

static zm_status load_byte_decoder(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  (void)node;
  if (t->decoder != DECODER_JOIN_BY_SPACE)
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "%s: %s: a ByteLevel decoder after another one is not supported", doc->file, where);
  t->decoder = DECODER_BYTES;
  return ZM_OK;
}

static zm_status load_fuse(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  (void)doc, (void)node, (void)where;
  if (t->decoder == DECODER_JOIN_BY_SPACE) t->decoder = DECODER_FUSE;
  return ZM_OK;
}

static zm_status load_decoders(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where);
static const part decoder_parts[] = {{"ByteLevel", load_byte_decoder}, {"Fuse", load_fuse}, {"Sequence", load_decoders}};

static zm_status load_decoders(zm_tokenizer *t, const zmi_json *doc, const zmi_json_node *node, const char *where) {
  return load_list(t, doc, node, where, "decoders", decoder_parts, ZMI_COUNT(decoder_parts));
}

zm_status zmi_load_decoder(zm_tokenizer *t, const zmi_json *doc) {
  const zmi_json_node *node = zmi_json_get(doc, zmi_json_root(doc), "decoder");
  zm_status status = node ? load_part(t, doc, node, "decoder", decoder_parts, ZMI_COUNT(decoder_parts)) : ZM_OK;
  if (status == ZM_OK && node && t->decoder == DECODER_JOIN_BY_SPACE) t->decoder = DECODER_FUSE; // an empty sequence
  return status;
}
