// Normalizers: Unicode normal forms, lower case, strip, prepend, replace. utf8proc has the tables; characters that the reference's
// (older) normalizers do not know are left alone and separate what stands around them.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 // memmem
#endif
#include "text/internal.h"

#include <string.h>
#include <utf8proc.h>

bool zmi_buffer_add(zmi_buffer *b, const char *bytes, size_t size) {
  if (size > b->capacity - b->size && !ZMI_GROW(b->data, b->capacity, b->size + size)) return false;
  if (size) memcpy(b->data + b->size, bytes, size);
  b->size += size;
  return true;
}

void zmi_normal_work_release(zmi_normal_work *w) {
  zmi_free(w->text[0].data);
  zmi_free(w->text[1].data);
  zmi_free(w->chars);
  zmi_free(w->sorted);
  *w = (zmi_normal_work){0};
}

zm_status zmi_bytes_to_chars(zmi_buffer *out, const char *text, size_t size) {
  if (size > SIZE_MAX / 2 - out->size || !ZMI_GROW(out->data, out->capacity, out->size + 2 * size + 1)) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < size; i++) out->size += zmi_utf8_put(zmi_byte_char((uint8_t)text[i]), out->data + out->size);
  return ZM_OK;
}

// ---- normal forms ----

static bool put_char(zmi_buffer *out, uint32_t c) {
  char bytes[4];
  return zmi_buffer_add(out, bytes, zmi_utf8_put(c, bytes));
}

// Puts each run of characters with a combining class into the order of the classes, equal ones as they stood: a counting sort, since
// utf8proc's own way takes the square of a run's length.
static bool sort_run(zmi_normal_work *w, size_t from, size_t end) {
  size_t at[257] = {0};
  if (!ZMI_GROW(w->sorted, w->sorted_capacity, end - from)) return false;
  for (size_t i = from; i < end; i++) at[utf8proc_get_property(w->chars[i])->combining_class + 1]++;
  for (int class = 1; class < 257; class++) at[class] += at[class - 1];
  for (size_t i = from; i < end; i++) w->sorted[at[utf8proc_get_property(w->chars[i])->combining_class]++] = w->chars[i];
  memcpy(w->chars + from, w->sorted, (end - from) * sizeof *w->sorted);
  return true;
}

static bool order_marks(zmi_normal_work *w) {
  for (size_t i = 0; i < w->char_count;) {
    size_t from = i;
    int last = 0, class;
    bool sorted = true;
    for (; i < w->char_count && (class = utf8proc_get_property(w->chars[i])->combining_class) != 0; i++) {
      sorted = sorted && class >= last;
      last = class;
    }
    if (!sorted && !sort_run(w, from, i)) return false;
    if (i == from) i++;
  }
  return true;
}

// Normalizes the characters decomposed so far and writes them.
static bool flush(zmi_normal_work *w, bool compose, zmi_buffer *out) {
  if (!order_marks(w)) return false;
  size_t count = w->char_count;
  if (compose && count > 0)
    count = (size_t)utf8proc_normalize_utf32(w->chars, (utf8proc_ssize_t)count, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
  for (size_t i = 0; i < count; i++)
    if (!put_char(out, (uint32_t)w->chars[i])) return false;
  w->char_count = 0;
  return true;
}

static bool decompose(zmi_normal_work *w, uint32_t c, bool compatible) {
  enum { LONGEST = 32 }; // the longest decomposition there is has 18 characters
  utf8proc_option_t options = UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
  int class = 0;
  if (!ZMI_GROW(w->chars, w->char_capacity, w->char_count + LONGEST)) return false;
  utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)c, w->chars + w->char_count, LONGEST, options, &class);
  if (n < 1 || n > LONGEST) {
    w->chars[w->char_count] = (int32_t)c;
    n = 1;
  }
  w->char_count += (size_t)n;
  return true;
}

// Characters below `safe` are as they should be and follow no other; one before a character that is not safe may join with it.
static bool normal_form(zmi_normal_work *w, bool compose, bool compatible, const char *text, size_t size, zmi_buffer *out) {
  uint32_t safe = compose && !compatible ? 0x300 : 0x80;
  const char *at = text, *end = text + size, *done = text; // written up to `done`
  while (at < end) {
    const char *from = at;
    if (zmi_utf8_next(&at) < safe) continue;
    size_t before = 0;
    if (from > done) zmi_utf8_before(done, from, &before);
    if (!zmi_buffer_add(out, done, (size_t)(from - done) - before)) return false;
    at = from - before;
    for (bool first = true; at < end; first = false) {
      from = at;
      uint32_t c = zmi_utf8_next(&at);
      if (c < safe && !(first && before)) {
        at = from;
        break;
      }
      if (zmi_is_inert(c)) {
        if (!flush(w, compose, out) || !put_char(out, c)) return false;
      } else if (!decompose(w, c, compatible)) {
        return false;
      }
    }
    if (!flush(w, compose, out)) return false;
    done = at;
  }
  return zmi_buffer_add(out, done, (size_t)(end - done));
}

// ---- the others ----

static bool lower_case(const char *text, size_t size, zmi_buffer *out) {
  for (const char *at = text; at < text + size;) {
    uint32_t c = zmi_utf8_next(&at);
    if (c == 0x130 ? !zmi_buffer_add(out, "i\xcc\x87", 3) : !put_char(out, zmi_lower(c))) return false;
  }
  return true;
}

static void strip(const zmi_normalizer *n, const char **text, size_t *size) {
  const char *start = *text, *end = *text + *size;
  size_t last;
  while (n->left && start < end) {
    const char *at = start;
    if (!zmi_is_white(zmi_utf8_next(&at))) break;
    start = at;
  }
  while (n->right && start < end && zmi_is_white(zmi_utf8_before(start, end, &last))) end -= last;
  *text = start;
  *size = (size_t)(end - start);
}

static zm_status replace(const zmi_normalizer *n, zmi_matcher *m, const char *text, size_t size, zmi_buffer *out) {
  size_t done = 0, from = 0, last_end = SIZE_MAX, start = 0, end = 0;
  for (;;) {
    bool found;
    if (n->regex) {
      zm_status status = zmi_regex_find_next(n->regex, m, text, size, &from, &last_end, &found, &start, &end);
      if (status != ZM_OK) return status;
    } else {
      const char *hit = memmem(text + done, size - done, n->pattern, n->pattern_size);
      found = hit != NULL;
      if (hit) start = (size_t)(hit - text), end = start + n->pattern_size;
    }
    if (!found) break;
    if (!zmi_buffer_add(out, text + done, start - done) || !zmi_buffer_add(out, n->content, n->content_size)) return ZM_ERROR_MEMORY;
    done = end;
  }
  return zmi_buffer_add(out, text + done, size - done) ? ZM_OK : ZM_ERROR_MEMORY;
}

zm_status zmi_normalize(const zmi_normalizer *list, size_t count, zmi_normal_work *w, zmi_matcher *m, const char **text, size_t *size) {
  int to = 0;
  for (size_t i = 0; i < count; i++) {
    const zmi_normalizer *n = &list[i];
    zmi_buffer *out = &w->text[to];
    zm_status status = ZM_OK;
    bool good = true;
    if (*size == 0) return ZM_OK; // nothing comes from nothing
    out->size = 0;
    if (!ZMI_GROW(out->data, out->capacity, *size + 1)) return ZM_ERROR_MEMORY;
    switch (n->kind) {
      case NORMALIZE_NFC: good = normal_form(w, true, false, *text, *size, out); break;
      case NORMALIZE_NFD: good = normal_form(w, false, false, *text, *size, out); break;
      case NORMALIZE_NFKC: good = normal_form(w, true, true, *text, *size, out); break;
      case NORMALIZE_NFKD: good = normal_form(w, false, true, *text, *size, out); break;
      case NORMALIZE_LOWERCASE: good = lower_case(*text, *size, out); break;
      case NORMALIZE_PREPEND: good = zmi_buffer_add(out, n->content, n->content_size) && zmi_buffer_add(out, *text, *size); break;
      case NORMALIZE_REPLACE: status = replace(n, m, *text, *size, out); break;
      case NORMALIZE_BYTES: status = zmi_bytes_to_chars(out, *text, *size); break;
      case NORMALIZE_STRIP: strip(n, text, size); continue;
    }
    if (!good || status != ZM_OK) return good ? status : ZM_ERROR_MEMORY;
    *text = out->data;
    *size = out->size;
    to ^= 1;
  }
  return ZM_OK;
}
