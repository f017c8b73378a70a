// JSON read into nodes over its own text: strings are unescaped in place, nothing is copied. Vocabularies are the reason to have it: a
// tokenizer.json holds some hundred thousand short strings, and a program's first token waits for them.
#include "text/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 64 };

typedef struct reader {
  zmi_json *doc;
  char *at, *end;
  int depth;
} reader;

static zm_status syntax_error(const reader *r, const char *what) {
  size_t line = 1, column = 1;
  for (const char *p = r->doc->data; p < r->at; p++) {
    column = *p == '\n' ? 1 : column + 1;
    line += *p == '\n';
  }
  return zmi_fail(ZM_ERROR_FORMAT, "%s: line %zu, column %zu: %s; the file is no JSON, fetch it again", r->doc->file, line, column, what);
}

static void skip_white(reader *r) {
  while (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t') r->at++; // a zero ends the text
}

static zm_status new_node(reader *r, zmi_json_type type, uint32_t *index) {
  zmi_json *doc = r->doc;
  if (doc->count >= UINT32_MAX - 1)
    return zmi_fail(ZM_ERROR_LIMIT, "%s: more than %zu values; no tokenizer is that large", doc->file, doc->count);
  if (!ZMI_GROW(doc->nodes, doc->capacity, doc->count + 1)) return zm_last_status();
  *index = (uint32_t)doc->count++;
  doc->nodes[*index] = (zmi_json_node){.type = type};
  return ZM_OK;
}

static int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Four hexadecimal digits at r->at; false if they are not.
static bool read_unit(reader *r, uint32_t *unit) {
  *unit = 0;
  for (int i = 0; i < 4; i++) {
    int digit = hex_digit(*r->at);
    if (digit < 0) return false;
    *unit = *unit << 4 | (uint32_t)digit;
    r->at++;
  }
  return true;
}

static zm_status read_escape(reader *r, char **to) {
  static const char letters[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
  char c = *r->at;
  const char *letter = c ? strchr(letters, c) : NULL;
  if (letter) {
    *(*to)++ = values[letter - letters];
    r->at++;
    return ZM_OK;
  }
  if (c != 'u') return syntax_error(r, "a backslash is followed by no escape of JSON");
  r->at++;
  uint32_t unit, low;
  if (!read_unit(r, &unit)) return syntax_error(r, "\\u is not followed by four hexadecimal digits");
  if (unit >= 0xdc00 && unit < 0xe000) return syntax_error(r, "\\u names the second half of a surrogate pair without the first");
  if (unit >= 0xd800 && unit < 0xdc00) {
    if (r->at[0] != '\\' || r->at[1] != 'u') return syntax_error(r, "\\u names the first half of a surrogate pair without the second");
    r->at += 2;
    if (!read_unit(r, &low) || low < 0xdc00 || low >= 0xe000)
      return syntax_error(r, "\\u names the first half of a surrogate pair without the second");
    unit = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
  }
  *to += zmi_utf8_put(unit, *to); // never longer than its escape
  return ZM_OK;
}

// At the opening quote. The text stays in place; escapes shorten it.
static zm_status read_string(reader *r, const char **text, uint32_t *size) {
  char *from = ++r->at;
  while (*r->at != '"' && *r->at != '\\' && (uint8_t)*r->at >= 0x20) r->at++;
  char *to = r->at;
  while (*r->at != '"') {
    if (r->at >= r->end) return syntax_error(r, "a string has no end");
    if ((uint8_t)*r->at < 0x20) return syntax_error(r, "a control character stands unescaped in a string");
    if (*r->at != '\\') {
      *to++ = *r->at++;
      continue;
    }
    r->at++;
    zm_status status = read_escape(r, &to);
    if (status != ZM_OK) return status;
  }
  r->at++;
  *text = from;
  *size = (uint32_t)(to - from);
  return ZM_OK;
}

static char *skip_digits(char *p) {
  while (*p >= '0' && *p <= '9') p++;
  return p;
}

static zm_status read_number(reader *r, uint32_t index) {
  char *start = r->at, *p = start + (*start == '-');
  char *digits = p;
  p = skip_digits(p);
  bool good = p > digits && (*digits != '0' || p == digits + 1);
  if (good && *p == '.') {
    digits = ++p;
    p = skip_digits(p);
    good = p > digits;
  }
  if (good && (*p == 'e' || *p == 'E')) {
    p++;
    if (*p == '+' || *p == '-') p++;
    digits = p;
    p = skip_digits(p);
    good = p > digits;
  }
  if (!good) return syntax_error(r, "a number is malformed");
  r->doc->nodes[index].text = start;
  r->doc->nodes[index].size = (uint32_t)(p - start);
  r->at = p;
  return ZM_OK;
}

static zm_status read_value(reader *r, uint32_t *index);

// The members of an object or the elements of an array, up to and with the closing bracket.
static zm_status read_members(reader *r, uint32_t parent, bool object) {
  char close = object ? '}' : ']';
  uint32_t last = 0;
  r->at++;
  skip_white(r);
  if (*r->at == close) {
    r->at++;
    return ZM_OK;
  }
  if (++r->depth > MAX_DEPTH) return syntax_error(r, "values are nested more than 64 deep");
  for (;;) {
    const char *key = NULL;
    uint32_t key_size = 0, index;
    if (object) {
      skip_white(r);
      if (*r->at != '"') return syntax_error(r, "a member's name is expected");
      zm_status status = read_string(r, &key, &key_size);
      if (status != ZM_OK) return status;
      skip_white(r);
      if (*r->at != ':') return syntax_error(r, "a colon is expected after a member's name");
      r->at++;
    }
    zm_status status = read_value(r, &index);
    if (status != ZM_OK) return status;
    zmi_json_node *nodes = r->doc->nodes;
    nodes[index].key = key;
    nodes[index].key_size = key_size;
    if (last) nodes[last].next = index;
    else nodes[parent].child = index;
    nodes[parent].count++;
    last = index;
    skip_white(r);
    if (*r->at == close) break;
    if (*r->at != ',') return syntax_error(r, object ? "a comma or } is expected" : "a comma or ] is expected");
    r->at++;
  }
  r->at++;
  r->depth--;
  return ZM_OK;
}

static zm_status read_value(reader *r, uint32_t *index) {
  static const struct { const char *word; zmi_json_type type; } words[] = {{"null", JSON_NULL}, {"true", JSON_TRUE}, {"false", JSON_FALSE}};
  skip_white(r);
  char c = *r->at;
  zmi_json_type type = c == '{' ? JSON_OBJECT : c == '[' ? JSON_ARRAY : c == '"' ? JSON_STRING : JSON_NUMBER;
  zm_status status = new_node(r, type, index);
  if (status != ZM_OK) return status;
  if (type == JSON_OBJECT || type == JSON_ARRAY) return read_members(r, *index, type == JSON_OBJECT);
  if (type == JSON_STRING) {
    const char *text;
    uint32_t size;
    status = read_string(r, &text, &size);
    if (status != ZM_OK) return status;
    r->doc->nodes[*index].text = text;
    r->doc->nodes[*index].size = size;
    return ZM_OK;
  }
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    size_t size = strlen(words[i].word);
    if (strncmp(r->at, words[i].word, size) != 0) continue;
    r->doc->nodes[*index].type = words[i].type;
    r->at += size;
    return ZM_OK;
  }
  if (c == '-' || (c >= '0' && c <= '9')) return read_number(r, *index);
  return syntax_error(r, r->at >= r->end ? "the file ends where a value is expected" : "a value is expected");
}

zm_status zmi_json_parse(zmi_json *doc, const char *file, char *data, size_t size) {
  *doc = (zmi_json){.file = file, .data = data};
  size_t bad;
  if (size >= UINT32_MAX) return zmi_fail(ZM_ERROR_LIMIT, "%s: %zu bytes are more than a tokenizer's JSON can have", file, size);
  if (!zmi_utf8_check(data, size, &bad))
    return zmi_fail(ZM_ERROR_FORMAT, "%s: byte 0x%02x at offset %zu is not UTF-8; fetch the file again", file, (uint8_t)data[bad], bad);
  reader r = {doc, data, data + size, 0};
  uint32_t index;
  // A vocabulary has one value in some 22 bytes.
  if (!ZMI_GROW(doc->nodes, doc->capacity, size / 20 + 16)) return zm_last_status();
  zm_status status = new_node(&r, JSON_NULL, &index);
  if (status == ZM_OK) status = read_value(&r, &index);
  if (status != ZM_OK) return status;
  skip_white(&r);
  return r.at == r.end ? ZM_OK : syntax_error(&r, "something follows the end of the document");
}

void zmi_json_release(zmi_json *doc) {
  zmi_free(doc->data);
  zmi_free(doc->nodes);
  *doc = (zmi_json){0};
}

const zmi_json_node *zmi_json_root(const zmi_json *doc) { return &doc->nodes[1]; }

const zmi_json_node *zmi_json_child(const zmi_json *doc, const zmi_json_node *node) {
  return node->child ? &doc->nodes[node->child] : NULL;
}

const zmi_json_node *zmi_json_next(const zmi_json *doc, const zmi_json_node *node) { return node->next ? &doc->nodes[node->next] : NULL; }

const zmi_json_node *zmi_json_get(const zmi_json *doc, const zmi_json_node *object, const char *key) {
  if (object->type != JSON_OBJECT) return NULL;
  size_t size = strlen(key);
  for (const zmi_json_node *n = zmi_json_child(doc, object); n; n = zmi_json_next(doc, n))
    if (n->key_size == size && memcmp(n->key, key, size) == 0) return n->type == JSON_NULL ? NULL : n;
  return NULL;
}

bool zmi_json_is(const zmi_json_node *string, const char *text) {
  return string->type == JSON_STRING && string->size == strlen(text) && memcmp(string->text, text, string->size) == 0;
}

zm_status zmi_json_fail(const zmi_json *doc, const char *where, const char *key, const zmi_json_node *node, const char *expected) {
  static const char *const names[] = {"null", "false", "true", "a number", "a string", "an array", "an object"};
  const char *dot = *where && key ? "." : "";
  if (!key) key = "";
  if (!node) return zmi_fail(ZM_ERROR_FORMAT, "%s: %s%s%s: expected %s, found nothing", doc->file, where, dot, key, expected);
  if (node->type != JSON_NUMBER && node->type != JSON_STRING)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: %s%s%s: expected %s, found %s", doc->file, where, dot, key, expected, names[node->type]);
  const char *quote = node->type == JSON_STRING ? "\"" : "";
  int shown = (int)ZMI_MIN(node->size, 60u);
  while (shown > 0 && (uint32_t)shown < node->size && (node->text[shown] & 0xc0) == 0x80) shown--; // whole characters
  return zmi_fail(ZM_ERROR_FORMAT, "%s: %s%s%s: expected %s, found %s%.*s%s%s", doc->file, where, dot, key, expected, quote, shown,
                  node->text, (uint32_t)shown < node->size ? "..." : "", quote);
}

zm_status zmi_json_bool(const zmi_json *doc, const zmi_json_node *object, const char *where, const char *key, bool *value) {
  const zmi_json_node *node = zmi_json_get(doc, object, key);
  if (!node || (node->type != JSON_TRUE && node->type != JSON_FALSE)) return zmi_json_fail(doc, where, key, node, "true or false");
  *value = node->type == JSON_TRUE;
  return ZM_OK;
}

zm_status zmi_json_string(const zmi_json *doc, const zmi_json_node *object, const char *where, const char *key,
                          const zmi_json_node **value) {
  *value = zmi_json_get(doc, object, key);
  return *value && (*value)->type == JSON_STRING ? ZM_OK : zmi_json_fail(doc, where, key, *value, "a string");
}

zm_status zmi_json_id(const zmi_json *doc, const zmi_json_node *number, const char *where, int32_t *value) {
  static const char expected[] = "an id from 0 to 16777215";
  int64_t id = 0;
  if (!number || number->type != JSON_NUMBER || number->size > 8) return zmi_json_fail(doc, where, NULL, number, expected);
  for (uint32_t i = 0; i < number->size; i++) {
    char c = number->text[i];
    if (c < '0' || c > '9') return zmi_json_fail(doc, where, NULL, number, expected);
    id = id * 10 + (c - '0');
  }
  if (id > ZMI_MAX_TOKEN_ID) return zmi_json_fail(doc, where, NULL, number, expected);
  *value = (int32_t)id;
  return ZM_OK;
}
