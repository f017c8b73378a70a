// Tokenizers: stored cases of Hugging Face `tokenizers`, bad text and bad files, streaming, threads, and running out of memory.
//
// tests/data/tokenizers/cases.bin is made by scripts/make_tokenizer_cases.py. Numbers are little-endian, strings have their size (4 bytes)
// before them. "ZMTC"; number of texts, texts; number of tokenizers; of each: its path; then for each text: flags (1 byte: 1 special tokens
// added, 2 special tokens as plain text, 4 a decoded text follows), number of ids (4 bytes), ids (2 bytes each), and, with flag 4, what
// they decode to (else it is the text itself).
#include "base/base.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <zmlx/tokenizer.h>

#include "temp.h"

static const char shipped[] = "checkpoints/storyteller-4bit";

static zm_tokenizer *open_or_fail(const char *path) {
  zm_tokenizer *t = zm_tokenizer_open(path);
  if (!t) fail_msg("%s", zm_last_error());
  return t;
}

// ---- stored cases ----

typedef struct view {
  const uint8_t *at;
  size_t size;
} view;

static const uint8_t *take(view *v, size_t size) {
  const uint8_t *at = v->at;
  if (size > v->size) fail_msg("cases.bin is cut short");
  v->at += size;
  v->size -= size;
  return at;
}

static uint32_t take_number(view *v) {
  const uint8_t *b = take(v, 4);
  return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static view take_string(view *v) {
  view s = {.size = take_number(v)};
  s.at = take(v, s.size);
  return s;
}

static void check_streaming(const zm_tokenizer *t, const int32_t *ids, size_t count, const zm_decode_options *o, const char *text,
                            size_t size) {
  zm_detokenizer *d = zm_detokenizer_new(t, o);
  size_t at = 0, length, bad;
  const char *part;
  assert_non_null(d);
  for (size_t i = 0; i <= count; i++) {
    if ((i < count ? zm_detokenizer_add(d, ids[i], &part, &length) : zm_detokenizer_finish(d, &part, &length)))
      fail_msg("%s", zm_last_error());
    assert_true(at + length <= size);
    assert_memory_equal(part, text + at, length);
    for (bad = 0; bad < length && (part[bad] & 0xc0) == 0x80; bad++) {}
    assert_int_equal(bad, 0); // nothing begins in the middle of a character
    at += length;
  }
  assert_int_equal(at, size);
  zm_detokenizer_free(d);
}

static void check_case(const zm_tokenizer *t, const char *path, uint32_t index, view text, view *v) {
  uint8_t flags = *take(v, 1);
  uint32_t expected_count = take_number(v);
  const uint8_t *expected = take(v, 2 * (size_t)expected_count);
  view decoded = flags & 4 ? take_string(v) : text;
  int32_t *ids;
  size_t count, size;
  char *out;
  zm_encode_options o = {.add_special = flags & 1, .plain = (flags & 2) != 0};
  if (zm_tokenizer_encode(t, (const char *)text.at, text.size, &o, &ids, &count)) fail_msg("%s, text %u: %s", path, index, zm_last_error());
  for (size_t i = 0; i < count && i < expected_count; i++)
    if (ids[i] != (expected[2 * i] | expected[2 * i + 1] << 8))
      fail_msg("%s, text %u: id %zu is %d, not %d", path, index, i, ids[i], expected[2 * i] | expected[2 * i + 1] << 8);
  if (count != expected_count) fail_msg("%s, text %u: %zu ids, not %u", path, index, count, expected_count);
  if (zm_tokenizer_decode(t, ids, count, NULL, &out, &size)) fail_msg("%s, text %u: %s", path, index, zm_last_error());
  if (size != decoded.size || memcmp(out, decoded.at, size)) fail_msg("%s, text %u: decodes to another text: \"%s\"", path, index, out);
  assert_int_equal(out[size], 0);
  check_streaming(t, ids, count, NULL, out, size);
  zm_text_free(out);
  zm_tokens_free(ids);
}

static void stored_cases(void **state) {
  (void)state;
  char *data;
  size_t size;
  if (zmi_read_file("tests/data/tokenizers/cases.bin", 64 << 20, &data, &size)) fail_msg("%s", zm_last_error());
  view v = {(const uint8_t *)data, size};
  assert_memory_equal(take(&v, 4), "ZMTC", 4);
  uint32_t text_count = take_number(&v);
  view *texts = calloc(text_count, sizeof *texts);
  for (uint32_t i = 0; i < text_count; i++) texts[i] = take_string(&v);
  uint32_t files = take_number(&v);
  assert_true(text_count > 100 && files > 40);
  for (uint32_t f = 0; f < files; f++) {
    view name = take_string(&v);
    char path[256];
    snprintf(path, sizeof path, "%.*s", (int)name.size, (const char *)name.at);
    zm_tokenizer *t = open_or_fail(path);
    for (uint32_t i = 0; i < text_count; i++) check_case(t, path, i, texts[i], &v);
    zm_tokenizer_close(t);
  }
  assert_int_equal(v.size, 0);
  free(texts);
  zmi_free(data);
}

// ---- a small tokenizer whose file the tests change ----

static const char base_file[] =
    "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,"
    "\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,"
    "\"special\":true}],"
    "\"normalizer\":{\"type\":\"NFC\"},"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|\\\\s+\"},"
    "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":"
    "false}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[7],\"tokens\":[\"<s>\"]}"
    "}},"
    "\"decoder\":{\"type\":\"ByteLevel\"},"
    "\"model\":{\"type\":\"BPE\",\"dropout\":null,\"unk_token\":null,\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,"
    "\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\\u0120\":3,\"ab\":4,\"abc\":5,\"\\u0120a\":6},"
    "\"merges\":[[\"a\",\"b\"],[\"ab\",\"c\"],[\"\\u0120\",\"a\"]]}}";

static void write_file(temp_folder *folder, const char *name, const char *data, size_t size) {
  FILE *f = fopen(temp_path(folder, name), "wb");
  assert_non_null(f);
  assert_int_equal(fwrite(data, 1, size, f), size);
  assert_int_equal(fclose(f), 0);
}

// The base file with the first `from` replaced, opened.
static zm_tokenizer *open_changed(temp_folder *folder, const char *from, const char *to) {
  char text[8192];
  const char *hit = strstr(base_file, from);
  if (!hit) fail_msg("the base file lacks %s", from);
  int size = snprintf(text, sizeof text, "%.*s%s%s", (int)(hit - base_file), base_file, to, hit + strlen(from));
  write_file(folder, "tokenizer.json", text, (size_t)size);
  return zm_tokenizer_open(folder->path);
}

static void base_file_works(void **state) {
  (void)state;
  temp_folder folder;
  int32_t *ids;
  size_t count;
  assert_int_equal(temp_make(&folder), 0);
  zm_tokenizer *t = open_changed(&folder, "{", "{");
  if (!t) fail_msg("%s", zm_last_error());
  assert_int_equal(zm_tokenizer_size(t), 8);
  assert_int_equal(zm_tokenizer_id(t, "abc"), 5);
  assert_int_equal(zm_tokenizer_id(t, "<s>"), 7);
  assert_int_equal(zm_tokenizer_id(t, "nothing"), -1);
  assert_int_equal(zm_tokenizer_bos(t), -1); // no tokenizer_config.json
  assert_int_equal(zm_tokenizer_eos(t), -1);
  assert_true(zm_tokenizer_is_special(t, 7));
  assert_false(zm_tokenizer_is_special(t, 5) || zm_tokenizer_is_special(t, -1) || zm_tokenizer_is_special(t, 8));
  assert_int_equal(zm_tokenizer_encode(t, "abc<s>a", 7, &(zm_encode_options){.add_special = true}, &ids, &count), ZM_OK);
  static const int32_t expected[] = {7, 5, 7, 0};
  assert_int_equal(count, 4);
  assert_memory_equal(ids, expected, sizeof expected);
  char *text;
  size_t size;
  assert_int_equal(zm_tokenizer_decode(t, ids, count, &(zm_decode_options){.skip_special = true}, &text, &size), ZM_OK);
  assert_string_equal(text, "abca");
  check_streaming(t, ids, count, &(zm_decode_options){.skip_special = true}, text, size);
  zm_text_free(text);
  zm_tokens_free(ids);
  // Nothing in, nothing out, but an array that can be released.
  assert_int_equal(zm_tokenizer_encode(t, NULL, 0, NULL, &ids, &count), ZM_OK);
  assert_int_equal(count, 0);
  assert_non_null(ids);
  zm_tokens_free(ids);
  assert_int_equal(zm_tokenizer_decode(t, NULL, 0, NULL, &text, &size), ZM_OK);
  assert_string_equal(text, "");
  zm_text_free(text);
  zm_tokenizer_close(t);
  temp_remove(&folder);
}

// ---- broken and unsupported files ----

static const struct broken {
  const char *from, *to, *message;
  zm_status status;
} broken_files[] = {
    {"\"1.0\"", "\"2.0\"", "version: expected \"1.0\", found \"2.0\"", ZM_ERROR_FORMAT},
    {"\"1.0\"", "1", "version: expected \"1.0\", found 1", ZM_ERROR_FORMAT},
    {"{\"version\":", "{\"version\"", "line 1, column 11: a colon is expected", ZM_ERROR_FORMAT},
    {"{\"version\"", "{version", "a member's name is expected", ZM_ERROR_FORMAT},
    {"null", "nul", "a value is expected", ZM_ERROR_FORMAT},
    {"null", "-", "a number is malformed", ZM_ERROR_FORMAT},
    {"null", "01", "a number is malformed", ZM_ERROR_FORMAT},
    {"null", "1.", "a number is malformed", ZM_ERROR_FORMAT},
    {"null", "1e+", "a number is malformed", ZM_ERROR_FORMAT},
    {"null", "\"\\q\"", "no escape of JSON", ZM_ERROR_FORMAT},
    {"null", "\"\\u12g4\"", "four hexadecimal digits", ZM_ERROR_FORMAT},
    {"null", "\"\\ud800\"", "without the second", ZM_ERROR_FORMAT},
    {"null", "\"\\ud800\\u0041\"", "without the second", ZM_ERROR_FORMAT},
    {"null", "\"\\udc00\"", "without the first", ZM_ERROR_FORMAT},
    {"null", "\"\n\"", "a control character", ZM_ERROR_FORMAT},
    {"null", "[1 2]", "a comma or ] is expected", ZM_ERROR_FORMAT},
    {"null", "{\"a\":1 \"b\"}", "a comma or } is expected", ZM_ERROR_FORMAT},
    {"null", "\"\xff\"", "byte 0xff at offset 31 is not UTF-8", ZM_ERROR_FORMAT},
    {"{\"version\"", "{}{\"version\"", "something follows", ZM_ERROR_FORMAT},
    {"{\"version\"", "[{\"version\"", "a comma or ] is expected", ZM_ERROR_FORMAT},
    {"\"id\":7", "\"id\":8", "added_tokens[0]: the token \"<s>\" says id 8, but its place in the vocabulary gives it id 7",
     ZM_ERROR_FORMAT},
    {"\"id\":7", "\"id\":-7", "added_tokens[0].id: expected an id from 0 to 16777215, found -7", ZM_ERROR_FORMAT},
    {"\"id\":7", "\"id\":7.5", "added_tokens[0].id: expected an id from 0 to 16777215, found 7.5", ZM_ERROR_FORMAT},
    {"\"id\":7", "\"id\":99999999999", "added_tokens[0].id: expected an id from 0 to 16777215, found 99999999999", ZM_ERROR_FORMAT},
    {"\"id\":7,", "", "added_tokens[0].id: expected an id from 0 to 16777215, found nothing", ZM_ERROR_FORMAT},
    {"\"content\":\"<s>\"", "\"content\":7", "added_tokens[0].content: expected a string, found 7", ZM_ERROR_FORMAT},
    {"\"lstrip\":false", "\"lstrip\":0", "added_tokens[0].lstrip: expected true or false, found 0", ZM_ERROR_FORMAT},
    {"[{\"id\":7", "[3,{\"id\":7", "added_tokens[0]: expected an object, found 3", ZM_ERROR_FORMAT},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Nmt\"}", "normalizer.type \"Nmt\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"{\"type\":\"NFC\"}", "{}", "normalizer.type: expected a string, found nothing", ZM_ERROR_FORMAT},
    {"{\"type\":\"NFC\"}", "\"NFC\"", "normalizer: expected an object, found \"NFC\"", ZM_ERROR_FORMAT},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Strip\",\"strip_left\":true}", "normalizer.strip_right: expected true or false", ZM_ERROR_FORMAT},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Replace\",\"pattern\":\"x\",\"content\":\"\"}", "normalizer.pattern: expected {\"Regex\"",
     ZM_ERROR_FORMAT},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Bert\"}]}",
     "normalizer.normalizers[1].type \"Bert\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"\"pretokenizers\":", "\"pretokenizer\":", "pre_tokenizer.pretokenizers: expected an array, found nothing", ZM_ERROR_FORMAT},
    {"\"type\":\"Split\"", "\"type\":\"Metaspace\"", "pre_tokenizer.pretokenizers[0].type \"Metaspace\" is not supported",
     ZM_ERROR_UNSUPPORTED},
    {"\"Isolated\"", "\"isolated\"", "pretokenizers[0].behavior: expected Isolated, Removed, MergedWithPrevious", ZM_ERROR_FORMAT},
    {"\"invert\":false", "\"invert\":null", "pretokenizers[0].invert: expected true or false, found nothing", ZM_ERROR_FORMAT},
    {"\\\\p{L}+", "\\\\p{Zombie}+",
     "pretokenizers[0].pattern: at offset 0 of the pattern: the character property \"Zombie\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(\\\\p{L}+", "a group has no end", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "\\\\p{L}+)", "at offset 6 of the pattern: a closing parenthesis has no opening one", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "*", "there is nothing to repeat", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "a{3}{2}", "a repeated repeat is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "a{70000}", "a repeat count is too large", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(?i:ss)", "inside of (?i) are not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(?i:\\\\p{Lu})", "a character property inside of (?i) is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(?i:\u00e9)", "a character beyond ASCII inside of (?i) is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(a)\\\\1", "the escape \\1 is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(?<x>a)", "a group of this kind is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "[b-a]", "a range in a class runs backwards", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "[a", "a class has no end", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "[]a]", "a class that is empty or begins with ] is not supported", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "[[:alpha:]]", "POSIX classes", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+", "(?<=a*)b", "the pattern is not accepted", ZM_ERROR_UNSUPPORTED},
    {"\\\\p{L}+|\\\\s+", "a\\\\", "at offset 1 of the pattern: a backslash ends it", ZM_ERROR_UNSUPPORTED},
    {"{\"Sequence\":{\"id\":\"A\"", "{\"Sequence\":{\"id\":\"B\"", "post_processor.single[1]: expected {\"Sequence\"", ZM_ERROR_FORMAT},
    {"\"ids\":[7]", "\"ids\":[8]", "post_processor.single[0] names id 8, which no token has", ZM_ERROR_FORMAT},
    {"\"special_tokens\":{\"<s>\"", "\"special_tokens\":{\"<t>\"", "the token \"<s>\", whose ids special_tokens does not tell",
     ZM_ERROR_FORMAT},
    {"\"TemplateProcessing\"", "\"CatProcessing\"", "post_processor.type \"CatProcessing\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"\"decoder\":{\"type\":\"ByteLevel\"}", "\"decoder\":{\"type\":\"WordPiece\"}", "decoder.type \"WordPiece\" is not supported",
     ZM_ERROR_UNSUPPORTED},
    {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", "model.type \"Unigram\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"\"dropout\":null", "\"dropout\":0.1", "model.dropout 0.1 is not supported", ZM_ERROR_UNSUPPORTED},
    {"\"unk_token\":null", "\"unk_token\":1", "model.unk_token: expected a string or null, found 1", ZM_ERROR_FORMAT},
    {"\"fuse_unk\":false", "\"fuse_unk\":\"no\"", "model.fuse_unk: expected true or false, found \"no\"", ZM_ERROR_FORMAT},
    {"\"fuse_unk\":false", "\"end_of_word_suffix\":\"</w>\"", "model.end_of_word_suffix \"</w>\" is not supported", ZM_ERROR_UNSUPPORTED},
    {"\"vocab\":{", "\"words\":{", "model.vocab: expected an object of tokens and ids, found nothing", ZM_ERROR_FORMAT},
    {"\"a\":0,", "\"a\":1,", "model.vocab gives id 1 to \"a\" and to \"b\"", ZM_ERROR_FORMAT},
    {"\"a\":0,", "\"a\":0,\"a\":8,", "model.vocab has a token twice", ZM_ERROR_FORMAT},
    {"\"a\":0,", "\"a\":\"0\",", "model.vocab[\"a\"]: expected an id from 0 to 16777215, found \"0\"", ZM_ERROR_FORMAT},
    {"\"a\":0,", "\"a\":9999999,", "model.vocab has 7 tokens but ids up to 9999999", ZM_ERROR_FORMAT},
    {"[\"a\",\"b\"]", "[\"a\",\"x\"]", "model.merges[0]: expected a second half that is in the vocabulary", ZM_ERROR_FORMAT},
    {"[\"a\",\"b\"]", "[\"a\",\"c\"]", "model.merges[0]: expected halves whose union is in the vocabulary", ZM_ERROR_FORMAT},
    {"[\"ab\",\"c\"]", "[\"ab\"]", "model.merges[1]: expected an array of two tokens, or a string, found an array", ZM_ERROR_FORMAT},
    {"[\"ab\",\"c\"]", "\"ab  c\"", "model.merges[1]: expected two tokens with one space between them, found \"ab  c\"", ZM_ERROR_FORMAT},
    {"[\"ab\",\"c\"]", "[\"ab\",\"\"]", "model.merges[1]: expected two tokens that are not empty", ZM_ERROR_FORMAT},
};

static void broken_files_are_refused(void **state) {
  (void)state;
  temp_folder folder;
  assert_int_equal(temp_make(&folder), 0);
  for (size_t i = 0; i < ZMI_COUNT(broken_files); i++) {
    const struct broken *b = &broken_files[i];
    zm_tokenizer *t = open_changed(&folder, b->from, b->to);
    if (t) fail_msg("%s instead of %s is accepted", b->to, b->from);
    if (!strstr(zm_last_error(), b->message))
      fail_msg("%s instead of %s: \"%s\" lacks \"%s\"", b->to, b->from, zm_last_error(), b->message);
    if (!strstr(zm_last_error(), "tokenizer.json")) fail_msg("\"%s\" does not name the file", zm_last_error());
    assert_int_equal(zm_last_status(), b->status);
  }
  temp_remove(&folder);
}

// Every beginning of the file, and every file with one byte lost or changed: refused with words or accepted, nothing else.
static void damaged_files(void **state) {
  (void)state;
  temp_folder folder;
  char text[sizeof base_file];
  size_t size = sizeof base_file - 1, refused = 0;
  assert_int_equal(temp_make(&folder), 0);
  for (size_t at = 0; at < size; at++)
    for (int kind = 0; kind < 3; kind++) {
      memcpy(text, base_file, size + 1);
      if (kind == 1) text[at] = (char)(text[at] ^ (1 << at % 8));
      if (kind == 2) memmove(text + at, text + at + 1, size - at - 1);
      write_file(&folder, "tokenizer.json", text, kind == 0 ? at : kind == 1 ? size : size - 1);
      zm_tokenizer *t = zm_tokenizer_open(folder.path);
      if (!t) assert_true(zm_last_status() != ZM_OK && strstr(zm_last_error(), "tokenizer.json"));
      if (kind == 0) assert_null(t);
      refused += !t;
      zm_tokenizer_close(t);
    }
  assert_true(refused > 2 * size);
  temp_remove(&folder);
}

static void nested_files(void **state) {
  (void)state;
  temp_folder folder;
  char text[40000];
  assert_int_equal(temp_make(&folder), 0);
  memset(text, '[', sizeof text);
  write_file(&folder, "tokenizer.json", text, sizeof text);
  assert_null(zm_tokenizer_open(folder.path));
  assert_non_null(strstr(zm_last_error(), "nested more than 64 deep"));
  memset(text, '(', sizeof text);
  int size = snprintf(text, sizeof text, "(?:((((((((((((((((((((((((((((((((((((((((((((((((((((");
  text[size] = 0;
  assert_null(open_changed(&folder, "\\\\p{L}+", text));
  assert_non_null(strstr(zm_last_error(), "nested too deep"));
  assert_null(zm_tokenizer_open(temp_path(&folder, "nothing")));
  assert_int_equal(zm_last_status(), ZM_ERROR_FILE);
  assert_null(zm_tokenizer_open(NULL));
  assert_int_equal(zm_last_status(), ZM_ERROR_ARGUMENT);
  temp_remove(&folder);
}

// ---- tokenizer_config.json ----

static void special_token_names(void **state) {
  (void)state;
  static const struct {
    const char *config;
    int32_t bos, eos;
    const char *message;
  } cases[] = {
    {"{\"bos_token\":\"<s>\",\"eos_token\":\"abc\"}", 7, 5, NULL},
    {"{\"bos_token\":{\"content\":\"<s>\",\"special\":true},\"eos_token\":null}", 7, -1, NULL},
    {"{}", -1, -1, NULL},
    {"[]", 0, 0, "tokenizer_config.json: the document: expected an object, found an array"},
    {"{\"bos_token\":1}", 0, 0, "tokenizer_config.json: bos_token: expected a token, an object with its content, or null, found 1"},
    {"{\"eos_token\":{\"text\":\"<s>\"}}", 0, 0, "tokenizer_config.json: eos_token: expected a token"},
    {"{\"eos_token\":\"</s>\"}", 0, 0, "tokenizer_config.json: eos_token: expected a token that tokenizer.json has, found \"</s>\""},
    {"{\"eos_token\":", 0, 0, "tokenizer_config.json: line 1, column 14: the file ends where a value is expected"},
  };
  temp_folder folder;
  assert_int_equal(temp_make(&folder), 0);
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    write_file(&folder, "tokenizer_config.json", cases[i].config, strlen(cases[i].config));
    zm_tokenizer *t = open_changed(&folder, "{", "{");
    if (cases[i].message) {
      assert_null(t);
      if (!strstr(zm_last_error(), cases[i].message)) fail_msg("\"%s\" lacks \"%s\"", zm_last_error(), cases[i].message);
      continue;
    }
    if (!t) fail_msg("%s", zm_last_error());
    assert_int_equal(zm_tokenizer_bos(t), cases[i].bos);
    assert_int_equal(zm_tokenizer_eos(t), cases[i].eos);
    zm_tokenizer_close(t);
    t = open_or_fail(temp_path(&folder, "tokenizer.json")); // the same by the file's name
    assert_int_equal(zm_tokenizer_bos(t), cases[i].bos);
    zm_tokenizer_close(t);
  }
  temp_remove(&folder);
}

// ---- text ----

static void invalid_text(void **state) {
  (void)state;
  static const struct {
    const char *bytes;
    int size, bad;
  } cases[] = {
      {"\xff", 1, 0},
      {"abc\x80", 4, 3},
      {"abcdefgh\xc3", 9, 8},
      {"\xc0\x80", 2, 0},
      {"\xc1\xbf", 2, 0},
      {"\xe0\x80\x80", 3, 0},
      {"\xed\xa0\x80", 3, 0},
      {"\xf0\x80\x80\x80", 4, 0},
      {"\xf4\x90\x80\x80", 4, 0},
      {"\xf5\x80\x80\x80", 4, 0},
      {"a\xe4\xb8", 3, 1},
      {"\xe4\xb8\x2d", 3, 0},
      {"\xf0\x9f\x98", 3, 0},
      {"\xc3\xa9\xc3", 3, 2},
      {"0123456789abcdef\xe4\xb8\xad\xfe", 20, 19},
  };
  zm_tokenizer *t = open_or_fail(shipped);
  for (size_t i = 0; i < ZMI_COUNT(cases); i++) {
    int32_t *ids = NULL;
    size_t count = 77;
    char offset[32];
    assert_int_equal(zm_tokenizer_encode(t, cases[i].bytes, (size_t)cases[i].size, NULL, &ids, &count), ZM_ERROR_FORMAT);
    assert_true(ids == NULL && count == 77);
    snprintf(offset, sizeof offset, "at offset %d;", cases[i].bad);
    if (!strstr(zm_last_error(), offset)) fail_msg("case %zu: \"%s\" lacks \"%s\"", i, zm_last_error(), offset);
  }
  zm_tokenizer_close(t);
}

static void ids_out_of_range(void **state) {
  (void)state;
  zm_tokenizer *t = open_or_fail(shipped);
  zm_detokenizer *d = zm_detokenizer_new(t, NULL);
  const int32_t size = zm_tokenizer_size(t), bad[] = {-1, size, INT32_MAX, INT32_MIN};
  for (size_t i = 0; i < ZMI_COUNT(bad); i++) {
    int32_t ids[] = {5, bad[i]};
    char *text;
    const char *part;
    size_t length;
    assert_int_equal(zm_tokenizer_decode(t, ids, 2, NULL, &text, &length), ZM_ERROR_ARGUMENT);
    assert_non_null(strstr(zm_last_error(), "number 1 of those to decode"));
    assert_int_equal(zm_detokenizer_add(d, bad[i], &part, &length), ZM_ERROR_ARGUMENT);
  }
  zm_detokenizer_free(d);
  zm_tokenizer_close(t);
  zm_detokenizer_free(NULL);
  zm_tokenizer_close(NULL);
}

// A character whose bytes are tokens of their own appears when it is whole; half a character at the end becomes one U+FFFD.
static void held_back_characters(void **state) {
  (void)state;
  zm_tokenizer *t = open_or_fail(shipped);
  zm_detokenizer *d = zm_detokenizer_new(t, NULL);
  static const char bytes[] = "\xf0\x9f\xa6\x95";                       // U+1F995
  static const char *const names[] = {"\u00f0", "\u0141", "\u00a6", "\u0137"}; // as the vocabulary writes them
  const char *part;
  size_t length;
  for (int i = 0; i < 4; i++) {
    assert_int_equal(zm_detokenizer_add(d, zm_tokenizer_id(t, names[i]), &part, &length), ZM_OK);
    assert_int_equal(length, i < 3 ? 0 : 4);
  }
  assert_memory_equal(part, bytes, 4);
  for (int i = 0; i < 3; i++) assert_int_equal(zm_detokenizer_add(d, zm_tokenizer_id(t, names[i]), &part, &length), ZM_OK);
  assert_int_equal(zm_detokenizer_add(d, zm_tokenizer_id(t, "a"), &part, &length), ZM_OK);
  assert_int_equal(length, 4); // U+FFFD and the letter
  assert_memory_equal(part, "\xef\xbf\xbd" "a", 4);
  assert_int_equal(zm_detokenizer_add(d, zm_tokenizer_id(t, names[0]), &part, &length), ZM_OK);
  assert_int_equal(zm_detokenizer_finish(d, &part, &length), ZM_OK);
  assert_int_equal(length, 3);
  assert_int_equal(zm_detokenizer_finish(d, &part, &length), ZM_OK);
  assert_int_equal(length, 0);
  zm_detokenizer_free(d);
  zm_tokenizer_close(t);
}

// Long pieces without a split: no limit of the regex library makes them fail, and all comes back.
static void long_texts(void **state) {
  (void)state;
  static const char *const parts[] = {" ", "a", "ab", "1", "\n", " \n", "!", "\u4e2d", "\u0301", "<|im_start|>", "<|", "\U0001fadf"};
  enum { SIZE = 200000 };
  zm_tokenizer *t = open_or_fail(shipped);
  char *text = malloc(SIZE + 16);
  for (size_t i = 0; i < ZMI_COUNT(parts); i++) {
    size_t size = 0, part = strlen(parts[i]), count, length;
    while (size + part <= SIZE) {
      memcpy(text + size, parts[i], part);
      size += part;
    }
    text[size++] = 'x';
    int32_t *ids;
    char *out;
    if (zm_tokenizer_encode(t, text, size, NULL, &ids, &count)) fail_msg("%s: %s", parts[i], zm_last_error());
    if (zm_tokenizer_decode(t, ids, count, NULL, &out, &length)) fail_msg("%s: %s", parts[i], zm_last_error());
    assert_int_equal(length, size);
    assert_memory_equal(out, text, size);
    zm_tokens_free(ids);
    zm_text_free(out);
  }
  free(text);
  zm_tokenizer_close(t);
}

static void hard_patterns(void **state) {
  (void)state;
  enum { SIZE = 100000 };
  temp_folder folder;
  int32_t *ids;
  size_t count;
  char *text = malloc(SIZE);
  assert_int_equal(temp_make(&folder), 0);
  for (size_t i = 0; i < SIZE; i++) text[i] = "ab"[i % 2];
  // More nested repeats than the generated code's stack holds.
  zm_tokenizer *t = open_changed(&folder, "\\\\p{L}+", "(?:ab)+");
  if (!t) fail_msg("%s", zm_last_error());
  if (zm_tokenizer_encode(t, text, SIZE, NULL, &ids, &count)) fail_msg("%s", zm_last_error());
  assert_int_equal(count, SIZE / 2); // "ab" is a token
  zm_tokens_free(ids);
  zm_tokenizer_close(t);
  // One that tries all ways to cut the text, of which there are too many.
  memset(text, 'a', 64);
  text[64] = 'b';
  t = open_changed(&folder, "\\\\p{L}+", "(a+)+$");
  assert_int_equal(zm_tokenizer_encode(t, text, 65, NULL, &ids, &count), ZM_ERROR_LIMIT);
  assert_non_null(strstr(zm_last_error(), "too many ways to match"));
  zm_tokenizer_close(t);
  free(text);
  temp_remove(&folder);
}

// ---- threads, memory ----

static const char prose[] =
    "It's 1234 \u00e9t\u00e9s,  \r\n\t don't \U0001f600! <|im_start|>user\n Once upon a time, the end.\u4e2d\u6587 ";

static void *encode_often(void *user) {
  const zm_tokenizer *t = user;
  int32_t *first = NULL;
  size_t first_count = 0;
  for (int i = 0; i < 200; i++) {
    int32_t *ids;
    size_t count;
    if (zm_tokenizer_encode(t, prose, sizeof prose - 1, NULL, &ids, &count)) return "an encoding fails";
    if (!first) {
      first = ids, first_count = count;
      continue;
    }
    bool same = count == first_count && memcmp(ids, first, count * sizeof *ids) == 0;
    zm_tokens_free(ids);
    if (!same) return "two encodings differ";
  }
  zm_tokens_free(first);
  return NULL;
}

static void shared_by_threads(void **state) {
  (void)state;
  zm_tokenizer *t = open_or_fail(shipped);
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, encode_often, t), 0);
  for (int i = 0; i < 4; i++) {
    void *error;
    assert_int_equal(pthread_join(threads[i], &error), 0);
    if (error) fail_msg("%s", (const char *)error);
  }
  zm_tokenizer_close(t);
}

// Opens, encodes, decodes and streams; false as soon as something fails, which must be for want of memory.
static bool use_all(const char *path, const char *text, size_t size) {
  zm_tokenizer *t = zm_tokenizer_open(path);
  zm_detokenizer *d = NULL;
  int32_t *ids = NULL;
  char *out = NULL;
  const char *part;
  size_t count = 0, length;
  bool good = t && zm_tokenizer_encode(t, text, size, &(zm_encode_options){.add_special = true}, &ids, &count) == ZM_OK;
  good = good && zm_tokenizer_decode(t, ids, count, NULL, &out, &length) == ZM_OK;
  good = good && (d = zm_detokenizer_new(t, NULL)) != NULL;
  for (size_t i = 0; good && i < count; i++) good = zm_detokenizer_add(d, ids[i], &part, &length) == ZM_OK;
  if (!good && zm_last_status() != ZM_ERROR_MEMORY) fail_msg("%s: status %d, \"%s\"", path, zm_last_status(), zm_last_error());
  zm_detokenizer_free(d);
  zm_text_free(out);
  zm_tokens_free(ids);
  zm_tokenizer_close(t);
  return good;
}

// Each allocation fails in turn. What was optional (generated code) may be done without; then the work succeeds all the same.
static void allocations_fail(void **state) {
  (void)state;
  static const char *const files[] = {"roberta",           "llama3", "added", "replace", "unknown_fused", "deepseek1", "falcon",
                                      "characters_joined", "kimi"};
  // Long enough for the cache of pieces, with a piece that is merged by the heap.
  enum { TIMES = 20, LONG = 300 };
  char text[TIMES * sizeof prose + LONG];
  size_t size = 0;
  for (int i = 0; i < TIMES; i++, size += sizeof prose - 1) memcpy(text + size, prose, sizeof prose);
  memset(text + size, 'e', LONG);
  size += LONG;
  for (size_t f = 0; f < ZMI_COUNT(files); f++) {
    char path[128];
    snprintf(path, sizeof path, "tests/data/tokenizers/%s.json", files[f]);
    uint64_t before = zmi_alloc_count();
    assert_true(use_all(path, text, size));
    uint64_t total = zmi_alloc_count() - before, failed = 0;
    for (uint64_t n = 1; n <= total; n++) {
      zmi_alloc_fail_at(n);
      failed += !use_all(path, text, size);
      zmi_alloc_fail_at(0);
    }
    assert_true(total > 40 && failed > total / 2);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
    cmocka_unit_test(stored_cases), cmocka_unit_test(base_file_works), cmocka_unit_test(broken_files_are_refused),
    cmocka_unit_test(damaged_files), cmocka_unit_test(nested_files), cmocka_unit_test(special_token_names),
    cmocka_unit_test(invalid_text), cmocka_unit_test(ids_out_of_range), cmocka_unit_test(held_back_characters),
    cmocka_unit_test(long_texts), cmocka_unit_test(hard_patterns), cmocka_unit_test(shared_by_threads),
    cmocka_unit_test(allocations_fail),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
