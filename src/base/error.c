// The thread's last error: a status and one sentence, kept in thread-local storage so that reporting a failure can't fail itself.
// Also the names of statuses and the version, which belong to no other room.
#include "base/base.h"

#include <stdio.h>
#include <string.h>

#ifndef ZM_VERSION
#define ZM_VERSION "0.1.0"
#endif

enum { MESSAGE_BYTES = 1024 };

static _Thread_local struct {
  zm_status status;
  char message[MESSAGE_BYTES];
} last;

// snprintf cuts at a byte; a message stays valid UTF-8 and shows that it was cut.
static void mark_cut(char *text, int length) {
  if (length < 0) {
    memcpy(text, "(message could not be formatted)", sizeof "(message could not be formatted)");
    return;
  }
  if (length < MESSAGE_BYTES) return;
  size_t end = MESSAGE_BYTES - sizeof "...";
  while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80) end--;
  memcpy(text + end, "...", sizeof "...");
}

zm_status zmi_fail(zm_status status, const char *format, ...) {
  char text[MESSAGE_BYTES]; // the arguments may point into the old message
  va_list args;
  va_start(args, format);
  int length = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  mark_cut(text, length);
  memcpy(last.message, text, strlen(text) + 1);
  last.status = status;
  return status;
}

zm_status zmi_fail_within(const char *format, ...) {
  char prefix[MESSAGE_BYTES], text[MESSAGE_BYTES];
  va_list args;
  va_start(args, format);
  int length = vsnprintf(prefix, sizeof prefix, format, args);
  va_end(args);
  mark_cut(prefix, length);
  size_t head = strlen(prefix), tail = strlen(last.message);
  // Assembled by hand: gcc can't see that a cut is handled and would warn about snprintf.
  memcpy(text, prefix, head);
  size_t used = head;
  for (size_t i = 0; i < 2 && used < MESSAGE_BYTES - 1; i++) text[used++] = ": "[i];
  size_t room = MESSAGE_BYTES - 1 - used, copied = ZMI_MIN(room, tail);
  memcpy(text + used, last.message, copied);
  text[used + copied] = 0;
  if (copied < tail) mark_cut(text, MESSAGE_BYTES);
  memcpy(last.message, text, strlen(text) + 1);
  return last.status == ZM_OK ? last.status = ZM_ERROR_ARGUMENT : last.status; // a caller is failing: never "ok"
}

void zmi_error_clear(void) {
  last.status = ZM_OK;
  last.message[0] = 0;
}

void zm_clear_error(void) { zmi_error_clear(); }
const char *zm_last_error(void) { return last.message; }
zm_status zm_last_status(void) { return last.status; }
const char *zm_version(void) { return ZM_VERSION; }

const char *zm_status_name(zm_status status) {
  static const char *const names[] = {
#define X(name, text) [name] = text,
    ZM_STATUS_LIST(X)
#undef X
  };
  return (size_t)status < ZMI_COUNT(names) ? names[status] : "unknown status";
}
