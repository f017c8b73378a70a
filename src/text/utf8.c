// UTF-8, the character sets that are not left to a library, and the alphabet of byte-level models.
#include "text/internal.h"

#include <string.h>
#include <utf8proc.h>

// Second bytes that a lead byte allows (the rest is always 80..BF), and the length of the character; length 0: no lead byte.
static int lead_byte(uint8_t byte, uint8_t *low, uint8_t *high) {
  *low = 0x80, *high = 0xbf;
  if (byte < 0x80) return 1;
  if (byte < 0xc2) return 0;
  if (byte < 0xe0) return 2;
  if (byte < 0xf0) {
    if (byte == 0xe0) *low = 0xa0;
    if (byte == 0xed) *high = 0x9f; // surrogates
    return 3;
  }
  if (byte > 0xf4) return 0;
  if (byte == 0xf0) *low = 0x90;
  if (byte == 0xf4) *high = 0x8f;
  return 4;
}

int zmi_utf8_step(const uint8_t *text, size_t size, size_t *taken) {
  uint8_t low, high;
  int length = lead_byte(text[0], &low, &high);
  *taken = 1;
  if (length < 2) return length;
  for (int i = 1; i < length; i++) {
    if ((size_t)i == size) return -1;
    if (text[i] < low || text[i] > high) return 0;
    low = 0x80, high = 0xbf;
    *taken = (size_t)i + 1;
  }
  return 1;
}

bool zmi_utf8_check(const char *text, size_t size, size_t *bad) {
  const uint8_t *bytes = (const uint8_t *)text;
  for (size_t at = 0; at < size;) {
    if (bytes[at] < 0x80) {
      uint64_t eight;
      while (size - at >= 8 && (memcpy(&eight, bytes + at, 8), (eight & 0x8080808080808080u) == 0)) at += 8;
      while (at < size && bytes[at] < 0x80) at++;
      continue;
    }
    size_t taken;
    if (zmi_utf8_step(bytes + at, size - at, &taken) != 1) {
      *bad = at;
      return false;
    }
    at += taken;
  }
  return true;
}

size_t zmi_utf8_put(uint32_t c, char out[4]) {
  if (c < 0x80) {
    out[0] = (char)c;
    return 1;
  }
  size_t size = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
  for (size_t i = size - 1; i > 0; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
  out[0] = (char)((0xf00 >> size & 0xff) | c);
  return size;
}

uint32_t zmi_utf8_next(const char **at) {
  const uint8_t *s = (const uint8_t *)*at;
  if (s[0] < 0x80) {
    *at += 1;
    return s[0];
  }
  if (s[0] < 0xe0) {
    *at += 2;
    return (s[0] & 0x1fu) << 6 | (s[1] & 0x3fu);
  }
  if (s[0] < 0xf0) {
    *at += 3;
    return (s[0] & 0xfu) << 12 | (s[1] & 0x3fu) << 6 | (s[2] & 0x3fu);
  }
  *at += 4;
  return (s[0] & 7u) << 18 | (s[1] & 0x3fu) << 12 | (s[2] & 0x3fu) << 6 | (s[3] & 0x3fu);
}

uint32_t zmi_utf8_before(const char *start, const char *at, size_t *size) {
  const char *p = at - 1;
  while (p > start && (*p & 0xc0) == 0x80) p--;
  *size = (size_t)(at - p);
  return zmi_utf8_next(&p);
}

bool zmi_is_white(uint32_t c) {
  if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
         c == 0x205f || c == 0x3000;
}

static bool in_ranges(uint32_t c, const zmi_char_range *ranges, size_t count) {
  size_t low = 0, high = count;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (c > ranges[middle].last) low = middle + 1;
    else high = middle;
  }
  return low < count && c >= ranges[low].first;
}

bool zmi_is_numeric(uint32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return in_ranges(c, zmi_numeric_ranges, zmi_numeric_range_count);
}

bool zmi_is_word(uint32_t c) { return in_ranges(c, zmi_word_ranges, zmi_word_range_count); }
bool zmi_is_inert(uint32_t c) { return c >= zmi_inert_ranges[0].first && in_ranges(c, zmi_inert_ranges, zmi_inert_range_count); }

uint32_t zmi_lower(uint32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  for (size_t i = 0; i < zmi_lower_range_count && c >= zmi_lower_ranges[i].first; i++)
    if (c <= zmi_lower_ranges[i].last) return (uint32_t)((int32_t)c + zmi_lower_ranges[i].distance);
  return (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

// Printable bytes stand for themselves, the others follow from U+0100 on in the order of their values.
uint32_t zmi_byte_char(uint8_t byte) {
  if ((byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte != 0xad)) return byte;
  if (byte <= ' ') return 0x100u + byte;
  if (byte <= 0xa0) return 0x100u + 33 + (byte - 0x7fu);
  return 0x100 + 33 + 34; // 0xad
}

int zmi_char_byte(uint32_t c) {
  if (c < 0x100) return zmi_byte_char((uint8_t)c) == c ? (int)c : -1;
  if (c <= 0x120) return (int)(c - 0x100);
  if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
  return c == 0x143 ? 0xad : -1;
}
