// Status codes and the thread's last error message.
//
// One rule for the whole library: a function that can fail returns a zm_status, or NULL where it returns an object. After a failure
// zm_last_error() gives one sentence for a person: what was wrong, where, which value, and what to do. The library never prints,
// exits or aborts, and a failed call leaves its outputs untouched unless its comment says otherwise.
#ifndef ZMLX_STATUS_H
#define ZMLX_STATUS_H

#if defined(__GNUC__)
#define ZM_API __attribute__((visibility("default")))
#else
#define ZM_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ZM_STATUS_LIST(X)                                                                                                                  \
  X(ZM_OK, "ok")                                                                                                                           \
  X(ZM_ERROR_ARGUMENT, "bad argument")   /* a value that the caller passed */                                                              \
  X(ZM_ERROR_FILE, "file error")         /* cannot open, read, write or publish */                                                         \
  X(ZM_ERROR_FORMAT, "bad format")       /* a file's content breaks its format */                                                          \
  X(ZM_ERROR_MEMORY, "out of memory")    /* an allocation failed or cannot fit */                                                          \
  X(ZM_ERROR_UNSUPPORTED, "unsupported") /* valid, but this build can't do it */                                                           \
  X(ZM_ERROR_LIMIT, "limit reached")     /* context full, too many rows, ... */                                                            \
  X(ZM_ERROR_CANCELLED, "cancelled")     /* a callback or a signal asked to stop */                                                        \
  X(ZM_ERROR_MISMATCH, "mismatch")       /* results that must agree do not */                                                              \
  X(ZM_ERROR_DEVICE, "device failure")   /* a GPU failed in the middle of work */

typedef enum zm_status {
#define X(name, text) name,
  ZM_STATUS_LIST(X)
#undef X
} zm_status;

// Short English name of a status ("ok", "bad format"). Never NULL; static storage.
ZM_API const char *zm_status_name(zm_status status);

// The message of this thread's latest failure, "" if there was none. Valid until the thread's next failing call.
ZM_API const char *zm_last_error(void);

// The status of this thread's latest failure, ZM_OK if there was none.
ZM_API zm_status zm_last_status(void);

// Forgets this thread's latest failure: zm_last_error() is "" and zm_last_status() ZM_OK again. Nothing needs it but code that passes NULL
// where an array is required and wants the message to be about that, not about a failure of long ago (array.h).
ZM_API void zm_clear_error(void);

// Version of the library as "major.minor.patch". Static storage.
ZM_API const char *zm_version(void);

// Called from long work, on the thread that started it. done and total are in bytes or items as the caller of the work says; total may
// be 0 when unknown. Return false to cancel: the work then fails with ZM_ERROR_CANCELLED and leaves nothing half-made.
#include <stdbool.h>
#include <stdint.h>
typedef bool (*zm_progress_fn)(void *user, const char *what, uint64_t done, uint64_t total);

#ifdef __cplusplus
}
#endif
#endif
