// Shared by the files of the text room: the parts a tokenizer is made of, and the state of one encoding.
//
// Text flows through them in this order: added tokens that are matched as written cut it into sections; each section is normalized;
// added tokens that are matched after normalization cut it again; the pre-tokenizer's stages split what is left into pieces; the
// model (byte pair encoding) turns each piece into ids; the template puts special tokens around them.
#ifndef ZMI_TEXT_INTERNAL_H
#define ZMI_TEXT_INTERNAL_H

#include "text/text.h"

// ---- UTF-8 and character sets (utf8.c, unicode_data.c) ----
bool zmi_utf8_check(const char *text, size_t size, size_t *bad); // false: *bad is the offset of the first byte that is not UTF-8
size_t zmi_utf8_put(uint32_t c, char out[4]);                    // bytes written
uint32_t zmi_utf8_next(const char **at);                         // reads one character of valid UTF-8 and steps behind it
uint32_t zmi_utf8_before(const char *start, const char *at, size_t *size); // the character that ends at `at` > start

typedef enum zmi_script {
  SCRIPT_OTHER, SCRIPT_HAN, SCRIPT_HIRAGANA, SCRIPT_KATAKANA, SCRIPT_HANGUL, SCRIPT_LATIN, SCRIPT_GREEK, SCRIPT_CYRILLIC, SCRIPT_ARABIC,
  SCRIPT_HEBREW, SCRIPT_THAI, SCRIPT_DEVANAGARI, SCRIPT_ARMENIAN
} zmi_script;
typedef struct zmi_added_char {
  uint32_t first, last;
  char category[3];
  uint8_t script;
} zmi_added_char;
typedef struct zmi_char_range {
  uint32_t first, last;
} zmi_char_range;
typedef struct zmi_lower_range {
  uint32_t first, last;
  int32_t distance;
} zmi_lower_range;
extern const zmi_added_char zmi_added_chars[];
extern const zmi_char_range zmi_numeric_ranges[], zmi_word_ranges[], zmi_inert_ranges[];
extern const zmi_lower_range zmi_lower_ranges[];
extern const size_t zmi_added_char_count, zmi_numeric_range_count, zmi_word_range_count, zmi_inert_range_count, zmi_lower_range_count;

bool zmi_is_white(uint32_t c);
bool zmi_is_numeric(uint32_t c);
bool zmi_is_word(uint32_t c);
bool zmi_is_inert(uint32_t c); // the reference's normalizers do not know it
uint32_t zmi_lower(uint32_t c); // U+0130, whose lower case is two characters, is left to the caller

// The alphabet of byte-level models: each byte has a printable character.
uint32_t zmi_byte_char(uint8_t byte);
int zmi_char_byte(uint32_t c); // -1: not a character of that alphabet

// ---- JSON (json.c): a document as nodes over its own text, quicker than a general library for vocabularies ----
typedef enum zmi_json_type { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } zmi_json_type;
typedef struct zmi_json_node {
  const char *text, *key;       // a string's characters, a number's digits; key: in an object
  uint32_t size, key_size;
  uint32_t next, child, count;  // indices of nodes, 0 = none
  zmi_json_type type;
} zmi_json_node;
typedef struct zmi_json {
  const char *file; // for messages
  char *data;
  zmi_json_node *nodes; // nodes[0] stands for none, nodes[1] is the root
  size_t count, capacity;
} zmi_json;
// Takes over `data` (size bytes, zero-terminated), which is freed with the document.
zm_status zmi_json_parse(zmi_json *doc, const char *file, char *data, size_t size);
void zmi_json_release(zmi_json *doc);
const zmi_json_node *zmi_json_root(const zmi_json *doc);
const zmi_json_node *zmi_json_child(const zmi_json *doc, const zmi_json_node *node); // first member or element, NULL if none
const zmi_json_node *zmi_json_next(const zmi_json *doc, const zmi_json_node *node);
const zmi_json_node *zmi_json_get(const zmi_json *doc, const zmi_json_node *object, const char *key); // NULL if absent or null
bool zmi_json_is(const zmi_json_node *string, const char *text);
// Fails with "FILE: WHERE.KEY: expected EXPECTED, found ..." (KEY may be NULL, node NULL means that it is missing).
zm_status zmi_json_fail(const zmi_json *doc, const char *where, const char *key, const zmi_json_node *node, const char *expected);
// Required fields of the given type; a zero status says that *value was set.
zm_status zmi_json_bool(const zmi_json *doc, const zmi_json_node *object, const char *where, const char *key, bool *value);
zm_status zmi_json_string(const zmi_json *doc, const zmi_json_node *object, const char *where, const char *key,
                          const zmi_json_node **value);
zm_status zmi_json_id(const zmi_json *doc, const zmi_json_node *number, const char *where, int32_t *value);
enum { ZMI_MAX_TOKEN_ID = (1 << 24) - 1 }; // larger ids are taken for damage

// ---- regexes (pattern.c translates, regex.c compiles and matches) ----
// A pattern in the dialect of Oniguruma, with which tokenizer.json files are read, as a pattern of PCRE2 that matches the same.
zm_status zmi_pattern_translate(const char *pattern, size_t size, zmi_text *out);
typedef struct zmi_regex zmi_regex;
typedef struct zmi_matcher zmi_matcher; // the memory of matching, of one thread; serves any regex
zmi_regex *zmi_regex_new(const char *pattern, size_t size);
void zmi_regex_free(zmi_regex *r);
zmi_matcher *zmi_matcher_new(size_t text_size); // of the longest text that it will see
void zmi_matcher_free(zmi_matcher *m);
// The first match in text[from..size); *found says if there is one.
zm_status zmi_regex_find(const zmi_regex *r, zmi_matcher *m, const char *text, size_t size, size_t from, bool *found, size_t *start,
                         size_t *end);

// ---- normalizers (normalize.c) ----
typedef enum zmi_normalizer_kind {
  NORMALIZE_NFC, NORMALIZE_NFD, NORMALIZE_NFKC, NORMALIZE_NFKD, NORMALIZE_LOWERCASE, NORMALIZE_STRIP, NORMALIZE_PREPEND, NORMALIZE_REPLACE,
  NORMALIZE_BYTES
} zmi_normalizer_kind;
typedef struct zmi_normalizer {
  zmi_normalizer_kind kind;
  bool left, right;  // STRIP
  zmi_regex *regex;  // REPLACE, with a regex
  char *pattern;     // REPLACE, with a string
  size_t pattern_size;
  char *content;     // REPLACE, PREPEND
  size_t content_size;
} zmi_normalizer;
// The memory of normalizing: two texts that take turns, and characters.
typedef struct zmi_buffer {
  char *data;
  size_t size, capacity;
} zmi_buffer;
typedef struct zmi_normal_work {
  zmi_buffer text[2];
  int32_t *chars, *sorted;
  size_t char_count, char_capacity, sorted_capacity;
} zmi_normal_work;
bool zmi_buffer_add(zmi_buffer *b, const char *bytes, size_t size);
void zmi_normal_work_release(zmi_normal_work *w);
// *text and *size are the input and become the result, which lies in the input or in w.
zm_status zmi_normalize(const zmi_normalizer *list, size_t count, zmi_normal_work *w, zmi_matcher *m, const char **text, size_t *size);
zm_status zmi_bytes_to_chars(zmi_buffer *out, const char *text, size_t size); // appends the byte alphabet's characters
// An empty match right after the last one counts for nothing; else as a regex finds them. Keeps *last_end (start: SIZE_MAX).
zm_status zmi_regex_find_next(const zmi_regex *r, zmi_matcher *m, const char *text, size_t size, size_t *from, size_t *last_end,
                              bool *found, size_t *start, size_t *end);

// ---- added tokens (added.c) ----
typedef struct zmi_added_token {
  size_t content, content_size; // as written: a place in the loader's storage
  size_t normal, normal_size;   // as it appears after normalization where that matters, else the same
  int32_t id;
  bool single_word, lstrip, rstrip, normalized, special;
} zmi_added_token;
typedef struct zmi_trie_node {
  int32_t token;           // index of the added token that ends here, -1 if none
  uint32_t child, sibling; // 0 = none
  uint8_t byte;
} zmi_trie_node;
typedef struct zmi_trie {
  zmi_trie_node *nodes;
  size_t count, capacity;
  uint32_t first[256]; // node of each first byte
  int only;            // the one first byte that there is, -1 if there are several
} zmi_trie;
zm_status zmi_trie_add(zmi_trie *t, const char *key, size_t size, int32_t token, bool *duplicate);
void zmi_trie_finish(zmi_trie *t);
// Longest token at the first place at or after `from` where one begins; -1 if none.
int32_t zmi_trie_find(const zmi_trie *t, const char *text, size_t size, size_t from, size_t *start, size_t *end);

// ---- model (bpe.c) ----
typedef struct zmi_merge {
  uint64_t pair; // left id << 32 | right id; UINT64_MAX: free slot
  uint32_t rank;
  int32_t id;
} zmi_merge;
typedef struct zmi_word_cache zmi_word_cache; // pieces seen lately, of one encoding
typedef struct zmi_bpe {
  zmi_map *vocab;
  zmi_merge *merges;
  uint64_t seed;
  unsigned shift;
  size_t slots;
  int32_t byte_ids[256];     // symbol of each byte of a byte-level piece, -1 if the vocabulary lacks it
  int32_t fallback_ids[256]; // ids of <0x00> to <0xFF> where byte_fallback is on and the vocabulary has them, else -1
  bool bytes;                // pieces are plain bytes: the byte-level alphabet is applied here
  bool has_unknown, fuse_unknown, ignore_merges;
  int32_t unknown;           // -1: named, but not in the vocabulary
  char *unknown_name;
} zmi_bpe;
typedef struct zmi_bpe_work {
  int32_t *symbols;
  uint32_t *links; // two a symbol: previous and next
  uint64_t *heap;
  size_t symbol_capacity, link_capacity, heap_capacity;
  zmi_word_cache *cache;
  zmi_buffer mapped;
  int32_t *ids; // the result
  size_t count, capacity;
} zmi_bpe_work;
zm_status zmi_bpe_make_merges(zmi_bpe *b, const zmi_json *doc, const zmi_json_node *merges);
void zmi_bpe_release(zmi_bpe *b);
zmi_word_cache *zmi_word_cache_new(void);
void zmi_bpe_work_release(zmi_bpe_work *w); // all but ids
zm_status zmi_bpe_encode(const zmi_bpe *b, zmi_bpe_work *w, const char *piece, size_t size);

// ---- pre-tokenizer (split.c) ----
typedef enum zmi_stage_kind {
  STAGE_REGEX, STAGE_STRING, STAGE_DIGITS, STAGE_WORDS, STAGE_WHITE, STAGE_PREFIX_SPACE, STAGE_BYTES
} zmi_stage_kind;
typedef enum zmi_behavior {
  BEHAVIOR_ISOLATED, BEHAVIOR_REMOVED, BEHAVIOR_MERGED_WITH_PREVIOUS, BEHAVIOR_MERGED_WITH_NEXT, BEHAVIOR_CONTIGUOUS
} zmi_behavior;
typedef struct zmi_stage {
  zmi_stage_kind kind;
  zmi_behavior behavior;
  bool invert;
  zmi_regex *regex; // REGEX
  char *string;     // STRING
  size_t string_size;
} zmi_stage;
enum { ZMI_MAX_STAGES = 64, ZMI_MAX_NORMALIZERS = 64 };
typedef struct zmi_encoder {
  const zm_tokenizer *t;
  zmi_matcher *matcher;
  zmi_normal_work normal;
  zmi_bpe_work work;
  zmi_buffer *stage_text; // one a stage
} zmi_encoder;
zm_status zmi_split(zmi_encoder *e, size_t stage, const char *text, size_t size); // runs the stages from `stage` on, then the model

// ---- the whole ----
typedef enum zmi_decoder_kind { DECODER_JOIN_BY_SPACE, DECODER_BYTES, DECODER_FUSE } zmi_decoder_kind;
enum { ZMI_TEMPLATE_TEXT = -1 }; // in the template: the ids of the text come here
struct zm_tokenizer {
  zmi_bpe bpe;
  zmi_normalizer *normalizers;
  size_t normalizer_count;
  zmi_added_token *added;
  size_t added_count;
  zmi_trie trie, normal_trie; // tokens matched before and after normalization
  zmi_stage *stages;
  size_t stage_count;
  int32_t *template_ids;
  size_t template_count;
  bool has_template;
  zmi_decoder_kind decoder;
  char *token_bytes; // what each id decodes to
  size_t *token_at;  // size + 1 offsets
  bool *special;     // left out on request; by id
  bool *present;     // ids that a token has
  zmi_map *names;    // added tokens by content
  int32_t size, bos, eos;
};
zm_status zmi_load_tokenizer(zm_tokenizer *t, const zmi_json *doc);     // load.c
// The parts (load_parts.c); each reads one member of the document. The post-processor needs t->size.
zm_status zmi_load_normalizer(zm_tokenizer *t, const zmi_json *doc);
zm_status zmi_load_pre_tokenizer(zm_tokenizer *t, const zmi_json *doc);
zm_status zmi_load_post_processor(zm_tokenizer *t, const zmi_json *doc);
zm_status zmi_load_decoder(zm_tokenizer *t, const zmi_json *doc);

#endif
