// Growable strings. A failed append is remembered, so that long chains of appends need one check at their end.
#include "base/base.h"

#include <stdio.h>
#include <string.h>

// Room for `more` bytes and the final zero.
static bool reserve(zmi_text *t, size_t more) {
  size_t needed;
  if (t->failed) return false;
  if (zmi_add_overflow(t->size, more, &needed) || zmi_add_overflow(needed, 1, &needed)) {
    zmi_fail(ZM_ERROR_MEMORY, "out of memory: a text of more bytes than can be addressed");
    t->failed = true;
  } else if (!ZMI_GROW(t->data, t->capacity, needed)) {
    t->failed = true;
  }
  return !t->failed;
}

void zmi_text_add(zmi_text *t, const char *format, ...) {
  char small[256]; // most appends are short: formatted once, without measuring first
  va_list args, again;
  va_start(args, format);
  va_copy(again, args);
  int length = vsnprintf(small, sizeof small, format, args);
  va_end(args);
  if (length < 0) {
    if (!t->failed) zmi_fail(ZM_ERROR_ARGUMENT, "text: the format \"%s\" could not be applied", format);
    t->failed = true;
  } else if ((size_t)length < sizeof small) {
    zmi_text_add_bytes(t, small, (size_t)length);
  } else if (reserve(t, (size_t)length)) {
    vsnprintf(t->data + t->size, (size_t)length + 1, format, again);
    t->size += (size_t)length;
  }
  va_end(again);
}

void zmi_text_add_bytes(zmi_text *t, const void *bytes, size_t size) {
  if (!reserve(t, size)) return;
  if (size) memcpy(t->data + t->size, bytes, size);
  t->size += size;
  t->data[t->size] = 0;
}

const char *zmi_text_str(const zmi_text *t) { return t->data ? t->data : ""; }

void zmi_text_release(zmi_text *t) {
  zmi_free(t->data);
  *t = (zmi_text){0};
}
