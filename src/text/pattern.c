// Translates a regex from the dialect of tokenizer.json files (Oniguruma's own syntax, Unicode 16) into that of PCRE2, so that both match
// the same. What differs: \s, \w, \d and \b, \h and \v, properties of characters newer than PCRE2's tables, intersections in classes,
// {n,m}+, {,m}, inline options, ^ and $. What has no translation is refused with its place, never passed on.
#include "text/internal.h"

#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 48, MAX_PATTERN = 16 << 10, MAX_TRANSLATION = 1 << 20 };

// A set of characters: all of `body` (the inside of a PCRE2 class) and, for each entry of `without`, all but its body.
typedef struct char_set {
  zmi_text body;        // "" = no characters of its own
  zmi_text negated_in;  // "|[^...]|[^...]"
  zmi_text negated_out; // "(?![^...])(?![^...])"
  int negated_count;
  bool minus_1171e; // PCRE2's Mn has U+1171E, which is Mc since Unicode 15
} char_set;

typedef struct translator {
  const char *start, *at, *end;
  zmi_text *out;
  int depth;
  bool caseless, dot_all;
  bool failed; // memory was short
  char last_literal; // the ASCII letter before this place in a caseless sequence, 0 if none
} translator;

static zm_status refuse(const translator *t, const char *at, const char *what) {
  return zmi_fail(ZM_ERROR_UNSUPPORTED, "at offset %zu of the pattern: %s", (size_t)(at - t->start), what);
}

// Also notes a want of memory that made the set incomplete.
static void release_set(translator *t, char_set *s) {
  t->failed = t->failed || s->body.failed || s->negated_in.failed || s->negated_out.failed;
  zmi_text_release(&s->body);
  zmi_text_release(&s->negated_in);
  zmi_text_release(&s->negated_out);
}

static bool starts(const translator *t, const char *text) {
  size_t size = strlen(text);
  return (size_t)(t->end - t->at) >= size && memcmp(t->at, text, size) == 0;
}

// ---- sets ----

// One character, inside or outside of a class.
static void add_char(zmi_text *out, uint32_t c) {
  if (c < 0x80 && ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))) zmi_text_add(out, "%c", (int)c);
  else if (c > ' ' && c < 0x7f) zmi_text_add(out, "\\%c", (int)c);
  else zmi_text_add(out, "\\x{%x}", c);
}

static const struct {
  const char *name, *pcre;
  zmi_script script;
} scripts[] = {
  {"Han", "\\p{sc:Han}", SCRIPT_HAN},
  {"Hiragana", "\\p{sc:Hiragana}", SCRIPT_HIRAGANA},
  {"Katakana", "\\p{sc:Katakana}", SCRIPT_KATAKANA},
  {"Hangul", "\\p{sc:Hangul}", SCRIPT_HANGUL},
  {"Latin", "\\p{sc:Latin}", SCRIPT_LATIN},
  {"Greek", "\\p{sc:Greek}", SCRIPT_GREEK},
  {"Cyrillic", "\\p{sc:Cyrillic}", SCRIPT_CYRILLIC},
  {"Arabic", "\\p{sc:Arabic}", SCRIPT_ARABIC},
  {"Hebrew", "\\p{sc:Hebrew}", SCRIPT_HEBREW},
  {"Thai", "\\p{sc:Thai}", SCRIPT_THAI},
  {"Devanagari", "\\p{sc:Devanagari}", SCRIPT_DEVANAGARI},
  {"Armenian", "\\p{sc:Armenian}", SCRIPT_ARMENIAN},
};
static const char *const categories[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P", "Pc",
                                         "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp"};

// The characters of a category or script that PCRE2 may be too old to know. An added range costs time in each failing comparison, so
// neighbours of any matching category are joined.
static void add_new_chars(zmi_text *out, const char *category, zmi_script script) {
  size_t size = category ? strlen(category) : 0;
  uint32_t first = 1, last = 0;
  for (size_t i = 0; i <= zmi_added_char_count; i++) {
    const zmi_added_char *c = &zmi_added_chars[i];
    if (i < zmi_added_char_count && !(category ? memcmp(c->category, category, size) == 0 : c->script == script)) continue;
    if (i < zmi_added_char_count && first <= last && c->first == last + 1) {
      last = c->last;
      continue;
    }
    if (first <= last) zmi_text_add(out, "\\x{%x}-\\x{%x}", first, last);
    if (i < zmi_added_char_count) first = c->first, last = c->last;
  }
}

// The inside of a class that stands for a property; false if the name is none that is known here.
static bool add_property(char_set *s, const char *name, size_t size) {
  for (size_t i = 0; i < ZMI_COUNT(categories); i++) {
    const char *category = categories[i];
    if (strlen(category) != size || memcmp(category, name, size) != 0) continue;
    zmi_text_add(&s->body, "\\p{%s}", category);
    add_new_chars(&s->body, category, SCRIPT_OTHER);
    if (strcmp(category, "Mc") == 0) zmi_text_add(&s->body, "\\x{1171e}");
    if (strcmp(category, "Mn") == 0) s->minus_1171e = true;
    return true;
  }
  for (size_t i = 0; i < ZMI_COUNT(scripts); i++) {
    if (strlen(scripts[i].name) != size || memcmp(scripts[i].name, name, size) != 0) continue;
    zmi_text_add(&s->body, "%s", scripts[i].pcre);
    add_new_chars(&s->body, NULL, scripts[i].script);
    return true;
  }
  return false;
}

static void add_white(char_set *s) { zmi_text_add(&s->body, "\\p{Z}\\t-\\r\\x{85}"); }

// Letters, marks, decimal digits and connectors, and enclosed letters. Outside of classes \w and \b take some numbers of Latin-1 too,
// a trait of Oniguruma.
static void add_word(char_set *s, bool in_class) {
  static const char *const parts[] = {"L", "M", "Nd", "Nl", "Pc"};
  for (size_t i = 0; i < ZMI_COUNT(parts); i++) add_property(s, parts[i], strlen(parts[i]));
  zmi_text_add(&s->body, "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}");
  if (!in_class) zmi_text_add(&s->body, "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}");
}

// Adds all characters that `other` has not.
static void add_complement(char_set *s, const char_set *other) {
  const char *body = zmi_text_str(&other->body);
  zmi_text_add(&s->negated_in, "|[^%s]", body);
  zmi_text_add(&s->negated_out, "(?![^%s])", body);
  s->negated_count++;
}

// What matches one character of the set, or of its complement.
static void add_set(zmi_text *out, const char_set *s, bool complement) {
  const char *body = zmi_text_str(&s->body), *in = zmi_text_str(&s->negated_in);
  bool empty = *body == 0;
  if (empty && s->negated_count == 1) {
    // Between the brackets of the one negated class: its body.
    int size = (int)strlen(in) - 4;
    zmi_text_add(out, complement ? "[%.*s]" : "[^%.*s]", size, in + 3);
  } else if (empty && s->negated_count > 1) {
    if (complement) zmi_text_add(out, "(?:%s(?s:.))", zmi_text_str(&s->negated_out));
    else zmi_text_add(out, "(?:%s)", in + 1);
  } else if (s->negated_count > 0) {
    if (complement) zmi_text_add(out, "(?:%s[^%s])", zmi_text_str(&s->negated_out), body);
    else zmi_text_add(out, "(?:[%s]%s)", body, in);
  } else if (s->minus_1171e) {
    zmi_text_add(out, complement ? "(?:[^%s]|\\x{1171e})" : "(?:(?!\\x{1171e})[%s])", body);
  } else {
    zmi_text_add(out, complement ? "[^%s]" : "[%s]", body);
  }
}

// ---- escapes ----

static zm_status read_hex(translator *t, const char *place, int digits, uint32_t *c) {
  *c = 0;
  int count = 0;
  for (; t->at < t->end && count < digits; count++, t->at++) {
    char d = (char)(*t->at | 0x20);
    if (*t->at >= '0' && *t->at <= '9') *c = *c << 4 | (uint32_t)(*t->at - '0');
    else if (d >= 'a' && d <= 'f') *c = *c << 4 | (uint32_t)(d - 'a' + 10);
    else break;
  }
  if (count == 0 || *c > 0x10ffff || (*c >= 0xd800 && *c < 0xe000)) return refuse(t, place, "a hexadecimal escape names no character");
  return ZM_OK;
}

// At the letter after a backslash. *is_set: the escape was a set of characters, added to `s` (negated ones by complement), else *c is it.
static zm_status read_property(translator *t, const char *place, char_set *s, bool negate) {
  const char *name = t->at, *end = t->at + 1;
  if (t->at < t->end && *t->at == '{') {
    name++;
    end = memchr(t->at, '}', (size_t)(t->end - t->at));
    if (!end) return refuse(t, place, "\\p{ has no closing brace");
    t->at = end + 1;
    if (*name == '^') name++, negate = !negate;
  } else {
    if (t->at >= t->end) return refuse(t, place, "\\p lacks the name of a property");
    t->at++;
  }
  char_set one = {0};
  bool known = add_property(&one, name, (size_t)(end - name));
  bool removal = one.minus_1171e;
  zm_status status = ZM_OK;
  if (!known)
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "at offset %zu of the pattern: the character property \"%.*s\" is not supported",
                      (size_t)(place - t->start), (int)ZMI_MIN(end - name, 40), name);
  else if (t->caseless) status = refuse(t, place, "a character property inside of (?i) is not supported");
  else if (negate && removal) status = refuse(t, place, "\\P{Mn} is not supported");
  else if (negate) add_complement(s, &one);
  else {
    add_property(s, name, (size_t)(end - name));
  }
  release_set(t, &one);
  return status;
}

static zm_status read_escape(translator *t, char_set *s, bool in_class, bool *is_set, uint32_t *c) {
  static const char plain[] = "nrtfvae", values[] = "\n\r\t\f\v\a\x1b", set_letters[] = "sdwhSDWH";
  const char *place = t->at - 1;
  *is_set = false;
  if (t->at >= t->end) return refuse(t, place, "a backslash ends it");
  char letter = *t->at;
  if ((uint8_t)letter >= 0x80) {
    *c = zmi_utf8_next(&t->at);
    return ZM_OK;
  }
  t->at++;
  bool alphanumeric = (letter >= '0' && letter <= '9') || ((letter | 0x20) >= 'a' && (letter | 0x20) <= 'z');
  if (!alphanumeric) {
    *c = (uint8_t)letter;
    return ZM_OK;
  }
  const char *found = strchr(plain, letter);
  if (found) {
    *c = (uint8_t)values[found - plain];
    return ZM_OK;
  }
  if (letter == 'x' || letter == 'u') {
    bool brace = letter == 'x' && t->at < t->end && *t->at == '{';
    t->at += brace;
    zm_status status = read_hex(t, place, brace ? 8 : letter == 'x' ? 2 : 4, c);
    if (status != ZM_OK) return status;
    if (brace && (t->at >= t->end || *t->at++ != '}')) return refuse(t, place, "\\x{ has no closing brace");
    return !brace && letter == 'x' && *c >= 0x80 ? refuse(t, place, "\\x with a byte from 80 to FF is not supported") : ZM_OK;
  }
  *is_set = true;
  if (letter == 'p' || letter == 'P') return read_property(t, place, s, letter == 'P');
  if (!strchr(set_letters, letter)) {
    char what[48];
    snprintf(what, sizeof what, "the escape \\%c is not supported", letter);
    return refuse(t, place, what);
  }
  if (t->caseless) return refuse(t, place, "a character set inside of (?i) is not supported");
  char_set one = {0};
  char kind = (char)(letter | 0x20);
  if (kind == 's') add_white(&one);
  else if (kind == 'd') add_property(&one, "Nd", 2);
  else if (kind == 'w') add_word(&one, in_class);
  else zmi_text_add(&one.body, "0-9A-Fa-f");
  if (letter != kind) add_complement(s, &one);
  else zmi_text_add(&s->body, "%s", zmi_text_str(&one.body));
  release_set(t, &one);
  return ZM_OK;
}

// ---- classes ----

static zm_status read_class(translator *t, zmi_text *out, char_set *plain, bool *negative);

static zm_status add_range(translator *t, const char *place, char_set *s, uint32_t first, uint32_t last) {
  if (t->caseless && (first >= 0x80 || last >= 0x80)) return refuse(t, place, "a character beyond ASCII inside of (?i) is not supported");
  if (first > last) return refuse(t, place, "a range in a class runs backwards");
  add_char(&s->body, first);
  if (last == first) return ZM_OK;
  zmi_text_add(&s->body, "-");
  add_char(&s->body, last);
  return ZM_OK;
}

// One item of a class: a character, a range, an escape, a nested class.
static zm_status read_item(translator *t, char_set *s) {
  const char *place = t->at;
  bool is_set = false;
  uint32_t c = 0, last;
  zm_status status = ZM_OK;
  if (starts(t, "[:")) return refuse(t, place, "POSIX classes ([:alpha:]) are not supported");
  if (*t->at == '[') {
    char_set inner = {0};
    bool negative;
    status = read_class(t, NULL, &inner, &negative);
    if (status == ZM_OK && (inner.negated_count || inner.minus_1171e))
      status = refuse(t, place, "a class nested in this way is not supported");
    if (status == ZM_OK && negative) add_complement(s, &inner);
    else if (status == ZM_OK) zmi_text_add(&s->body, "%s", zmi_text_str(&inner.body));
    release_set(t, &inner);
    return status;
  }
  if (*t->at == '\\') {
    t->at++;
    if (t->at < t->end && *t->at == 'b') return refuse(t, place, "\\b in a class is not supported");
    status = read_escape(t, s, true, &is_set, &c);
  } else {
    c = zmi_utf8_next(&t->at);
  }
  if (status != ZM_OK || is_set) return status;
  if (t->end - t->at < 2 || *t->at != '-' || t->at[1] == ']') return add_range(t, place, s, c, c);
  t->at++;
  if (*t->at == '[' || starts(t, "&&")) return refuse(t, place, "a range in a class has no end");
  bool end_is_set = false;
  if (*t->at == '\\') {
    char_set unused = {0};
    t->at++;
    status = read_escape(t, &unused, true, &end_is_set, &last);
    release_set(t, &unused);
  } else {
    last = zmi_utf8_next(&t->at);
  }
  if (status != ZM_OK) return status;
  return end_is_set ? refuse(t, place, "a range in a class ends in a set") : add_range(t, place, s, c, last);
}

// At an opening bracket. A class without && is left in `plain` and *negative where `out` is NULL, else written to `out`.
static zm_status read_class(translator *t, zmi_text *out, char_set *plain, bool *negative) {
  const char *place = t->at++;
  char_set s = {0};
  zmi_text operands = {0};
  bool negated = t->at < t->end && *t->at == '^', joined = false, empty = true;
  if (negated) t->at++;
  zm_status status = ++t->depth > MAX_DEPTH ? refuse(t, place, "it is nested too deep") : ZM_OK;
  if (status == ZM_OK && t->at < t->end && *t->at == ']')
    status = refuse(t, place, "a class that is empty or begins with ] is not supported");
  while (status == ZM_OK && t->at < t->end && *t->at != ']') {
    if (starts(t, "&&")) {
      t->at += 2;
      if (empty || !out) status = refuse(t, place, "an intersection of this kind is not supported");
      zmi_text_add(&operands, "(?=");
      add_set(&operands, &s, false);
      zmi_text_add(&operands, ")");
      joined = empty = true;
      release_set(t, &s);
      s = (char_set){0};
    } else {
      status = read_item(t, &s);
      empty = false;
    }
  }
  if (status == ZM_OK && (t->at >= t->end || empty)) status = refuse(t, place, "a class has no end");
  if (status == ZM_OK) {
    t->at++;
    if (!out) {
      *plain = s, *negative = negated;
      s = (char_set){0};
    } else if (joined) {
      zmi_text_add(out, negated ? "(?:(?!%s" : "(?:%s", zmi_text_str(&operands));
      add_set(out, &s, false);
      zmi_text_add(out, negated ? ")(?s:.))" : ")");
    } else {
      add_set(out, &s, negated);
    }
  }
  t->failed = t->failed || operands.failed;
  t->depth--;
  release_set(t, &s);
  zmi_text_release(&operands);
  return status;
}

// ---- groups, quantifiers, alternatives ----

static zm_status read_alternatives(translator *t, bool inside);

// A caseless sequence matches characters that fold to several letters (U+00DF to ss) in Oniguruma, in PCRE2 it does not.
static zm_status check_fold(translator *t, const char *place, uint32_t c) {
  static const char *const folds[] = {"ss", "st", "ff", "fi", "fl"};
  if (!t->caseless) return ZM_OK;
  if (c >= 0x80) return refuse(t, place, "a character beyond ASCII inside of (?i) is not supported");
  char letter = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
  for (size_t i = 0; i < ZMI_COUNT(folds); i++)
    if (folds[i][0] == t->last_literal && folds[i][1] == letter)
      return refuse(t, place, "the letters ss, st, ff, fi and fl inside of (?i) are not supported");
  t->last_literal = letter;
  return ZM_OK;
}

// After "(?" where options stand: i, and m, which lets the dot match line ends (PCRE2's s).
static zm_status read_options(translator *t, const char *place) {
  static const char *const written[] = {"(?-is:", "(?i-s:", "(?s-i:", "(?is:"};
  bool on = true, caseless = t->caseless, dot_all = t->dot_all, caseless_before = t->caseless, dot_all_before = t->dot_all;
  for (; t->at < t->end && *t->at != ':' && *t->at != ')'; t->at++) {
    if (*t->at == '-') on = false;
    else if (*t->at == 'i') caseless = on;
    else if (*t->at == 'm') dot_all = on;
    else return refuse(t, place, "a group of this kind is not supported");
  }
  if (t->at >= t->end) return refuse(t, place, "a group has no end");
  bool group = *t->at == ':';
  t->at++;
  t->caseless = caseless;
  t->dot_all = dot_all;
  zmi_text_add(t->out, "%s", written[caseless + 2 * dot_all]);
  // Without a colon the options hold up to the end of the group around them, alternatives included.
  zm_status status = read_alternatives(t, group || t->depth > 1);
  if (status != ZM_OK) return status;
  zmi_text_add(t->out, ")");
  t->caseless = caseless_before;
  t->dot_all = dot_all_before;
  if (!group) return ZM_OK;
  if (t->at >= t->end) return refuse(t, place, "a group has no end");
  t->at++;
  return ZM_OK;
}

// At an opening parenthesis. *quantifiable: lookarounds are not, and isolated options have eaten the rest.
static zm_status read_group(translator *t, bool *quantifiable) {
  static const struct {
    const char *open, *pcre;
    bool look;
  } kinds[] = {{"(?:", "(?:", false},  {"(?=", "(?=", true},   {"(?!", "(?!", true},
               {"(?<=", "(?<=", true}, {"(?<!", "(?<!", true}, {"(?>", "(?>", false}};
  const char *place = t->at, *open = "(?:";
  *quantifiable = true;
  zm_status status = ZM_OK;
  if (++t->depth > MAX_DEPTH) return refuse(t, place, "it is nested too deep");
  size_t kind = 0;
  while (kind < ZMI_COUNT(kinds) && !starts(t, kinds[kind].open)) kind++;
  if (kind < ZMI_COUNT(kinds)) {
    t->at += strlen(kinds[kind].open);
    open = kinds[kind].pcre;
    *quantifiable = !kinds[kind].look;
  } else if (starts(t, "(?<") || starts(t, "(?~") || starts(t, "(?(") || starts(t, "(*") || starts(t, "(?#") || starts(t, "(?{")) {
    return refuse(t, place, "a group of this kind is not supported");
  } else if (starts(t, "(?")) {
    t->at += 2;
    const char *colon = t->at;
    while (colon < t->end && *colon != ':' && *colon != ')') colon++;
    *quantifiable = colon < t->end && *colon == ':';
    t->last_literal = 0;
    status = read_options(t, place);
    t->last_literal = 0;
    t->depth--;
    return status;
  } else {
    t->at++; // a plain group; nothing can refer to it
  }
  zmi_text_add(t->out, "%s", open);
  t->last_literal = 0;
  status = read_alternatives(t, true);
  t->last_literal = 0;
  if (status == ZM_OK && t->at >= t->end) status = refuse(t, place, "a group has no end");
  if (status != ZM_OK) return status;
  t->at++;
  zmi_text_add(t->out, ")");
  t->depth--;
  return ZM_OK;
}

static bool read_count(translator *t, int *count) {
  const char *from = t->at;
  for (*count = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9' && *count <= 65535; t->at++) *count = *count * 10 + (*t->at - '0');
  return t->at > from;
}

// {n}, {n,}, {,m} and {n,m}; false (and nothing taken) where the brace is none of these and stands for itself.
static bool read_interval(translator *t, int *low, int *high) {
  const char *from = t->at++;
  bool has_low = read_count(t, low), comma = t->at < t->end && *t->at == ',', has_high = false;
  *high = *low;
  if (comma) {
    t->at++;
    has_high = read_count(t, high);
    if (!has_high) *high = -1;
  }
  if ((has_low || has_high) && t->at < t->end && *t->at == '}') {
    t->at++;
    return true;
  }
  t->at = from;
  return false;
}

// A brace at which an interval could begin.
static bool at_interval(translator *t) {
  int low, high;
  const char *from = t->at;
  bool is = t->at < t->end && *t->at == '{' && read_interval(t, &low, &high);
  t->at = from;
  return is;
}

// What follows an atom that was written from out->data[atom] on.
static zm_status read_quantifier(translator *t, size_t atom, bool quantifiable) {
  const char *place = t->at;
  if (t->at >= t->end || !(strchr("?*+", *t->at) ? *t->at != 0 : at_interval(t))) return ZM_OK;
  if (!quantifiable) return refuse(t, place, "a repeated lookaround or option is not supported");
  t->last_literal = 0;
  if (*t->at == '{') {
    int low, high;
    read_interval(t, &low, &high);
    if (low > 65535 || high > 65535 || (high >= 0 && low > high))
      return refuse(t, place, "a repeat count is too large or its bounds are swapped");
    if (high < 0) zmi_text_add(t->out, "{%d,}", low);
    else zmi_text_add(t->out, "{%d,%d}", low, high);
    if (t->at < t->end && *t->at == '?') {
      if (low == high) return refuse(t, place, "{n}? is not supported");
      zmi_text_add(t->out, "?");
      t->at++;
    } else if (t->at < t->end && *t->at == '+') {
      // Not possessive in this dialect: the repeat is repeated.
      size_t size = t->out->size - atom;
      zmi_text_add(t->out, "(?:)+");
      if (t->out->failed) return ZM_ERROR_MEMORY;
      memmove(t->out->data + atom + 3, t->out->data + atom, size);
      memcpy(t->out->data + atom, "(?:", 3);
      memcpy(t->out->data + atom + 3 + size, ")+", 2);
      t->at++;
    }
  } else {
    zmi_text_add(t->out, "%c", *t->at++);
    if (t->at < t->end && (*t->at == '?' || *t->at == '+')) zmi_text_add(t->out, "%c", *t->at++);
  }
  if (t->at < t->end && ((*t->at && strchr("?*+", *t->at)) || at_interval(t)))
    return refuse(t, t->at, "a repeated repeat is not supported");
  return ZM_OK;
}

// At a backslash: anchors, sets and characters.
static zm_status read_escaped_atom(translator *t, bool *quantifiable) {
  const char *place = t->at++;
  char letter = t->at < t->end ? *t->at : 0;
  if (letter == 'A' || letter == 'z' || letter == 'Z') {
    zmi_text_add(t->out, "\\%c", letter);
    t->at++;
    *quantifiable = false;
    t->last_literal = 0;
    return ZM_OK;
  }
  if (letter == 'b' || letter == 'B') {
    char_set word = {0};
    add_word(&word, false);
    const char *w = zmi_text_str(&word.body);
    if (letter == 'b') zmi_text_add(t->out, "(?:(?<=[%s])(?![%s])|(?<![%s])(?=[%s]))", w, w, w, w);
    else zmi_text_add(t->out, "(?:(?<=[%s])(?=[%s])|(?<![%s])(?![%s]))", w, w, w, w);
    release_set(t, &word);
    t->at++;
    *quantifiable = false;
    t->last_literal = 0;
    return ZM_OK;
  }
  char_set s = {0};
  bool is_set;
  uint32_t c;
  zm_status status = read_escape(t, &s, false, &is_set, &c);
  if (status == ZM_OK && is_set) {
    add_set(t->out, &s, false);
    t->last_literal = 0;
  } else if (status == ZM_OK) {
    status = check_fold(t, place, c);
    add_char(t->out, c);
  }
  release_set(t, &s);
  return status;
}

static zm_status read_atom(translator *t) {
  const char *place = t->at;
  size_t atom = t->out->size;
  bool quantifiable = true;
  zm_status status = ZM_OK;
  if (*t->at == '(') {
    status = read_group(t, &quantifiable);
  } else if (*t->at == '[') {
    status = read_class(t, t->out, NULL, NULL);
    t->last_literal = 0;
  } else if (*t->at == '\\') {
    status = read_escaped_atom(t, &quantifiable);
  } else if (strchr("?*+", *t->at) || at_interval(t)) {
    return refuse(t, place, "there is nothing to repeat");
  } else if (*t->at == '.' || *t->at == '^' || *t->at == '$') {
    quantifiable = *t->at == '.';
    zmi_text_add(t->out, "%c", *t->at++);
    t->last_literal = 0;
  } else {
    uint32_t c = zmi_utf8_next(&t->at);
    status = check_fold(t, place, c);
    add_char(t->out, c);
  }
  if (status != ZM_OK) return status;
  return read_quantifier(t, atom, quantifiable);
}

static zm_status read_alternatives(translator *t, bool inside) {
  while (t->at < t->end) {
    if (*t->at == ')') return inside ? ZM_OK : refuse(t, t->at, "a closing parenthesis has no opening one");
    if (*t->at == 0) return refuse(t, t->at, "a zero byte is not supported");
    if (*t->at == '|') {
      zmi_text_add(t->out, "|");
      t->at++;
      t->last_literal = 0;
      continue;
    }
    zm_status status = t->out->size > MAX_TRANSLATION ? refuse(t, t->at, "it is too large") : read_atom(t);
    if (status != ZM_OK) return status;
  }
  return ZM_OK;
}

zm_status zmi_pattern_translate(const char *pattern, size_t size, zmi_text *out) {
  translator t = {.start = pattern, .at = pattern, .end = pattern + size, .out = out};
  if (size > MAX_PATTERN) return refuse(&t, t.end, "patterns longer than 16384 bytes are not supported");
  zm_status status = read_alternatives(&t, false);
  if (status == ZM_OK && (t.failed || out->failed)) return ZM_ERROR_MEMORY;
  return status;
}
