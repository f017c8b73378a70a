// Stop strings over streamed text: holds back what may turn out to be the beginning of one.
#include "lm/lm.h"

#include <string.h>
#include <utf8proc.h>

static bool is_utf8(const char *s) {
  const utf8proc_uint8_t *p = (const utf8proc_uint8_t *)s;
  for (utf8proc_ssize_t left = (utf8proc_ssize_t)strlen(s); left > 0;) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(p, left, &c);
    if (n <= 0) return false;
    p += n;
    left -= n;
  }
  return true;
}

zm_status zmi_stopper_init(zmi_stopper *s, const char *const *stop, size_t count) {
  *s = (zmi_stopper){.stop = stop, .count = count};
  if (count && !stop) return zmi_fail(ZM_ERROR_ARGUMENT, "stop is NULL although stop_count is %zu", count);
  for (size_t i = 0; i < count; i++) {
    if (!stop[i] || !stop[i][0]) return zmi_fail(ZM_ERROR_ARGUMENT, "stop string %zu is empty: it would end every text at once", i);
    if (!is_utf8(stop[i])) return zmi_fail(ZM_ERROR_ARGUMENT, "stop string %zu is not valid UTF-8, so no text can ever hold it", i);
    s->longest = ZMI_MAX(s->longest, strlen(stop[i]));
  }
  return ZM_OK;
}

void zmi_stopper_release(zmi_stopper *s) { zmi_text_release(&s->held); }

// Length of the longest stop string that the first `size` bytes of the held text end with, 0 if none.
static size_t complete(const zmi_stopper *s, size_t size) {
  size_t best = 0;
  for (size_t i = 0; i < s->count; i++) {
    size_t n = strlen(s->stop[i]);
    if (n <= size && n > best && memcmp(s->held.data + size - n, s->stop[i], n) == 0) best = n;
  }
  return best;
}

// Length of the longest end of the held text that a stop string begins with.
static size_t undecided(const zmi_stopper *s) {
  size_t size = s->held.size;
  for (size_t n = ZMI_MIN(size, s->longest - 1); n > 0; n--)
    for (size_t i = 0; i < s->count; i++)
      if (strlen(s->stop[i]) > n && memcmp(s->held.data + size - n, s->stop[i], n) == 0) return n;
  return 0;
}

static zm_status out_of_memory(const zmi_text *a, const zmi_text *b) {
  return a->failed || b->failed ? zmi_fail(ZM_ERROR_MEMORY, "out of memory for the generated text") : ZM_OK;
}

zm_status zmi_stopper_add(zmi_stopper *s, const char *text, size_t size, zmi_text *out, bool *stopped) {
  *stopped = false;
  if (!size) return ZM_OK;
  if (!s->count) {
    zmi_text_add_bytes(out, text, size);
    return out_of_memory(out, out);
  }
  size_t before = s->held.size;
  zmi_text_add_bytes(&s->held, text, size);
  if (s->held.failed) return out_of_memory(&s->held, out);
  for (size_t end = before + 1; end <= s->held.size; end++) {
    size_t n = complete(s, end);
    if (!n) continue;
    zmi_text_add_bytes(out, s->held.data, end - n);
    s->held.size = 0;
    *stopped = true;
    return out_of_memory(out, out);
  }
  size_t keep = undecided(s), shown = s->held.size - keep;
  zmi_text_add_bytes(out, s->held.data, shown);
  memmove(s->held.data, s->held.data + shown, keep);
  s->held.size = keep;
  s->held.data[keep] = 0;
  return out_of_memory(out, out);
}

zm_status zmi_stopper_finish(zmi_stopper *s, zmi_text *out) {
  if (s->held.size) zmi_text_add_bytes(out, s->held.data, s->held.size);
  s->held.size = 0;
  return out_of_memory(out, out);
}
