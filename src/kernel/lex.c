// Tokens of the kernel language, and messages that show a place of the source.
#include "kernel/parse.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static int hex_digit(char c) {
  return is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static char peek(const zmi_parser *p, uint32_t ahead) {
  return p->at + ahead < p->size ? p->source[p->at + ahead] : 0;
}

// ---- messages ----
enum { SHOWN = 100 }; // columns of a line that are shown

static uint32_t line_of(const char *source, uint32_t first, const char **piece, int *length) { // first: where the line begins
  const uint32_t mark = sizeof ZMI_TEXT_PIECE - 1;
  uint32_t line = 1;
  for (uint32_t i = 0, begins = 0; i < first; i++) {
    if (source[i] != '\n') continue;
    line++;
    if (i - begins >= mark && memcmp(source + begins, ZMI_TEXT_PIECE, mark) == 0) {
      *piece = source + begins + mark;
      *length = (int)(i - begins - mark);
      line = 1;
    }
    begins = i + 1;
  }
  return line;
}

// Bytes of the character at s if it is one of UTF-8 beyond ASCII that may be shown; 0: it is no such character, or moves the cursor.
static uint32_t wide_character(const char *s, uint32_t left) {
  const unsigned char lead = (unsigned char)*s;
  const uint32_t n = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  static const uint32_t least[] = {[2] = 0xa0, [3] = 0x800, [4] = 0x10000}; // below: a longer spelling, or a control character
  if (lead < 0xc2 || lead > 0xf4 || left < n) return 0;
  uint32_t code = lead & (0xffu >> (n + 1));
  for (uint32_t i = 1; i < n; i++) {
    if (((unsigned char)s[i] & 0xc0) != 0x80) return 0;
    code = code << 6 | ((unsigned char)s[i] & 0x3f);
  }
  const bool turns = (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f);
  return code < least[n] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000) || turns || code == 0xfeff ? 0 : n;
}

void zmi_show_place(const char *name, const char *source, uint32_t size, uint32_t begin, uint32_t end, const char *message) {
  if (begin > size) begin = size;
  uint32_t first = begin, last = begin;
  while (first > 0 && source[first - 1] != '\n') first--;
  while (last < size && source[last] != '\n') last++;
  if (last > first && source[last - 1] == '\r') last--; // lines may end as those of Windows do
  if (begin > last) begin = last;
  const char *piece = "";
  int length = 0;
  const uint32_t line = line_of(source, first, &piece, &length);
  uint32_t column = begin - first, from = column > SHOWN - 20 ? column - (SHOWN - 20) : 0, shown = last - first - from;
  if (shown > SHOWN) shown = SHOWN;
  char text[SHOWN + 1], caret[SHOWN + 2];
  uint32_t at = column - from, width = 1;
  if (end > begin && end <= last) width = end - begin;
  uint32_t before = 0, within = 0; // bytes of characters that are no columns of their own
  for (uint32_t i = 0; i < shown; i++) {
    const char c = source[first + from + i];
    const uint32_t n = wide_character(source + first + from + i, shown - i);
    text[i] = (char)(c == '\t' ? ' ' : n == 0 && ((unsigned char)c < 32 || (unsigned char)c > 126) ? '?' : c);
    if (n == 0) continue;
    memcpy(text + i, source + first + from + i, n);
    if (i < at) before += n - 1;
    if (i >= at && i < at + width) within += n - 1;
    i += n - 1;
  }
  text[shown] = 0;
  at -= ZMI_MIN(before, at);
  width -= ZMI_MIN(within, width - 1);
  if (at + width > SHOWN) width = at < SHOWN ? SHOWN - at : 1;
  memset(caret, ' ', at);
  caret[at] = '^';
  memset(caret + at + 1, '~', width - 1);
  caret[at + width] = 0;
  for (uint32_t i = first, n; i < begin; i += n ? n : 1) {
    n = wide_character(source + i, begin - i);
    column -= n ? n - 1 : 0;
  }
  zmi_fail(ZM_ERROR_ARGUMENT, "kernel %.64s%s%.*s:%u:%u: %s\n  %s\n  %s", name, length ? ": " : "", length, piece, line, column + 1,
           message, text, caret);
}

void zmi_parse_fail(zmi_parser *p, uint32_t begin, uint32_t end, const char *format, ...) {
  if (p->failed) return;
  p->failed = true;
  char message[512];
  va_list args;
  va_start(args, format);
  vsnprintf(message, sizeof message, format, args);
  va_end(args);
  zmi_show_place(p->name, p->source, p->size, begin, end, message);
}

// ---- numbers ----
static void whole_number(zmi_parser *p, uint64_t value, bool decimal) {
  zmi_token *t = &p->token;
  bool is_unsigned = false, is_long = false;
  for (;; p->at++) {
    char c = peek(p, 0);
    if (c == 'u' || c == 'U') {
      is_unsigned = true;
    } else if (c == 'l' || c == 'L') {
      is_long = true;
    } else {
      break;
    }
  }
  bool fits = value <= (is_unsigned || !decimal ? UINT32_MAX : INT32_MAX) && !is_long;
  bool above = value > (fits ? (uint64_t)INT32_MAX : (uint64_t)INT64_MAX);
  t->type = fits ? (is_unsigned || above ? ZMI_C_UINT : ZMI_C_INT) : is_unsigned || above ? ZMI_C_ULONG : ZMI_C_LONG;
  t->whole = (int64_t)value;
}

static void real_suffix(zmi_parser *p) {
  char c = peek(p, 0);
  if ((c == 'b' || c == 'B') && (peek(p, 1) == 'f' || peek(p, 1) == 'F')) p->at += 2;
  if (c == 'f' || c == 'F' || c == 'h' || c == 'H') p->at++;
  p->token.type = ZMI_C_FLOAT;
  if (p->token.real > FLT_MAX)
    zmi_parse_fail(p, p->token.begin, p->at,
                   "too large for a float, the largest of which is 3.4028235e38: write INFINITY if that is meant");
}

static int exponent(zmi_parser *p) { // after its letter
  bool minus = peek(p, 0) == '-';
  if (minus || peek(p, 0) == '+') p->at++;
  if (!is_digit(peek(p, 0))) zmi_parse_fail(p, p->token.begin, p->at, "a number without digits in its exponent");
  int e = 0;
  for (; is_digit(peek(p, 0)); p->at++) e = e > 9999 ? e : e * 10 + (peek(p, 0) - '0');
  return minus ? -e : e;
}

static void hex_number(zmi_parser *p) {
  uint64_t value = 0;
  int places = 0, digits = 0, significant = 0;
  bool point = false;
  p->at += 2;
  for (;; p->at++) {
    char c = peek(p, 0);
    if (c == '.' && !point) {
      point = true;
      continue;
    }
    if (hex_digit(c) < 0) break;
    value = value << 4 | (uint64_t)hex_digit(c);
    digits++;
    if (value) significant++;
    if (point) places += 4;
  }
  if (digits == 0 || significant > 16)
    zmi_parse_fail(p, p->token.begin, p->at, digits ? "a number of too many digits" : "a number without digits");
  char c = peek(p, 0);
  if (c != 'p' && c != 'P') {
    if (point) zmi_parse_fail(p, p->token.begin, p->at, "a hexadecimal fraction needs its exponent, as in 0x1.8p3");
    whole_number(p, value, false);
    return;
  }
  p->at++;
  int e = exponent(p) - places;
  if (value >> 53) zmi_parse_fail(p, p->token.begin, p->at, "a number of too many digits");
  double x = (double)value;
  for (; e > 0 && x < 0x1p200 && x > 0; e--) x *= 2;
  for (; e < 0 && x > 0x1p-300; e++) x /= 2;
  p->token.real = (float)x;
  real_suffix(p);
}

// Digits and an exponent of ten without a point, so that the locale has no say.
static void decimal_number(zmi_parser *p) {
  char text[96];
  int n = 0, places = 0;
  bool point = false, real = false, dropped = false, overflow = false;
  uint64_t value = 0;
  for (;; p->at++) {
    char c = peek(p, 0);
    if (c == '.' && !point) {
      point = real = true;
      continue;
    }
    if (!is_digit(c)) break;
    uint64_t digit = (uint64_t)(c - '0');
    overflow = overflow || value > (UINT64_MAX - digit) / 10;
    value = value * 10 + digit;
    if (n < 60) {
      if (n || digit) text[n++] = c;
      places += point;
    } else {
      dropped = dropped || digit;
      places -= !point;
      if (places < -99999) places = -99999;
    }
  }
  char c = peek(p, 0);
  int e = 0;
  if (c == 'e' || c == 'E') {
    p->at++;
    real = true;
    e = exponent(p);
  }
  c = peek(p, 0);
  if (!real && c != 'f' && c != 'F' && c != 'h' && c != 'H') {
    if (overflow) zmi_parse_fail(p, p->token.begin, p->at, "an integer above 2^64");
    if (p->at - p->token.begin > 1 && p->source[p->token.begin] == '0')
      zmi_parse_fail(p, p->token.begin, p->at, "an integer that begins with 0 has base 8 in C: write it without, or as 0x...");
    whole_number(p, value, true);
    return;
  }
  if (dropped) text[n++] = '1';
  snprintf(text + n, sizeof text - (size_t)n, "%sE%d", n ? "" : "0", e - places - dropped);
  p->token.real = strtof(text, NULL);
  real_suffix(p);
}

static bool skip_blanks(zmi_parser *p) {
  for (;;) {
    char c = peek(p, 0);
    if (c == '/' && peek(p, 1) == '/') {
      while (p->at < p->size && peek(p, 0) != '\n') p->at++;
    } else if (c == '/' && peek(p, 1) == '*') {
      uint32_t begin = p->at;
      p->at += 2;
      while (p->at < p->size && !(peek(p, 0) == '*' && peek(p, 1) == '/')) p->at++;
      if (p->at >= p->size) {
        zmi_parse_fail(p, begin, begin + 2, "a comment that does not end");
        return false;
      }
      p->at += 2;
    } else if (c == '#' && p->size - p->at >= 7 && memcmp(p->source + p->at, "#pragma", 7) == 0) { // hints for other compilers
      while (p->at < p->size && peek(p, 0) != '\n') p->at++;
    } else if (p->at < p->size && (c == ' ' || c == '\t' || c == '\n' || c == '\r')) {
      p->at++;
    } else {
      return true;
    }
  }
}

static bool is_namespace(const char *s, uint32_t size) {
  static const char *const names[] = {"metal", "precise", "fast", "std", "mem_flags", "mlx"};
  for (size_t i = 0; i < ZMI_COUNT(names); i++) {
    if (strlen(names[i]) == size && memcmp(names[i], s, size) == 0) return true;
  }
  return false;
}

static void name_token(zmi_parser *p) {
  for (;;) { // metal::precise::exp is exp
    p->token.begin = p->at;
    while (is_letter(peek(p, 0)) || is_digit(peek(p, 0))) p->at++;
    p->token.end = p->at;
    bool more = peek(p, 0) == ':' && peek(p, 1) == ':' && is_letter(peek(p, 2));
    if (!more || !is_namespace(p->source + p->token.begin, p->at - p->token.begin)) break;
    p->at += 2;
  }
  p->token.kind = ZMI_T_NAME;
}

static void sign_token(zmi_parser *p) {
  static const char *const signs[] = {"<<=", ">>=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||",
                                      "+=",  "-=",  "*=", "/=", "%=", "&=", "|=", "^=", "++", "--"};
  p->token.kind = ZMI_T_SIGN;
  for (size_t i = 0; i < ZMI_COUNT(signs); i++) {
    uint32_t n = (uint32_t)strlen(signs[i]);
    if (p->size - p->at >= n && memcmp(p->source + p->at, signs[i], n) == 0) {
      p->token.sign = signs[i][0] | signs[i][1] << 8 | (n > 2 ? signs[i][2] << 16 : 0);
      p->at += n;
      return;
    }
  }
  char c = peek(p, 0);
  if (!c || !strchr("+-*/%<>=!~&|^?:;,.(){}[]", c)) {
    const uint32_t n = c ? wide_character(p->source + p->at, p->size - p->at) : 0;
    if (n || ((unsigned char)c >= 32 && (unsigned char)c < 127)) {
      const uint32_t all = n ? n : 1;
      zmi_parse_fail(p, p->at, p->at + all, "the character '%.*s' means nothing here", (int)all, p->source + p->at);
    } else {
      zmi_parse_fail(p, p->at, p->at + 1, "the byte 0x%02x means nothing here", (unsigned char)c);
    }
  }
  p->token.sign = (unsigned char)c;
  p->at++;
}

void zmi_lex(zmi_parser *p) {
  zmi_token before = p->token;
  p->last_end = before.end;
  p->token = (zmi_token){.kind = ZMI_T_END, .begin = p->size, .end = p->size};
  if (p->failed || !skip_blanks(p) || p->at >= p->size) return;
  p->token.begin = p->at;
  char c = peek(p, 0);
  bool dims = before.kind == ZMI_T_SIGN && before.sign == '.' && before.end == p->at;
  if (dims && is_digit(c)) {
    uint64_t value = 0;
    for (; is_digit(peek(p, 0)); p->at++) value = value > 99 ? value : value * 10 + (uint64_t)(peek(p, 0) - '0');
    p->token.kind = ZMI_T_NUMBER;
    p->token.type = ZMI_C_INT;
    p->token.whole = (int64_t)value;
  } else if (is_digit(c) || (c == '.' && is_digit(peek(p, 1)) && !(before.kind == ZMI_T_NAME && before.end == p->at))) {
    p->token.kind = ZMI_T_NUMBER;
    if (c == '0' && (peek(p, 1) == 'x' || peek(p, 1) == 'X')) {
      hex_number(p);
    } else {
      decimal_number(p);
    }
    if (is_letter(peek(p, 0))) zmi_parse_fail(p, p->token.begin, p->at + 1, "letters at the end of a number");
  } else if (is_letter(c)) {
    name_token(p);
  } else {
    sign_token(p);
  }
  p->token.end = p->at;
  if (p->failed) p->token.kind = ZMI_T_END;
}

bool zmi_token_is(const zmi_parser *p, const char *text) {
  size_t n = strlen(text);
  if (p->token.kind != ZMI_T_NAME && p->token.kind != ZMI_T_SIGN) return false;
  return p->token.end - p->token.begin == n && memcmp(p->source + p->token.begin, text, n) == 0;
}

bool zmi_take(zmi_parser *p, const char *text) {
  if (!zmi_token_is(p, text)) return false;
  zmi_lex(p);
  return true;
}

bool zmi_expect(zmi_parser *p, const char *text, const char *after) {
  if (zmi_take(p, text)) return true;
  bool end = p->token.kind == ZMI_T_END;
  zmi_parse_fail(p, p->token.begin, p->token.end, "'%s' is expected after %s%s%.*s%s", text, after, end ? ", not the end" : ", not '",
                 end ? 0 : (int)ZMI_MIN(p->token.end - p->token.begin, 40u), end ? "" : p->source + p->token.begin, end ? "" : "'");
  return false;
}
