// Device code: compiled by NVRTC for the device at hand, kept in the disk cache under the hash of everything that went into it.
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 96, OPTIONS = 7, NVRTC_NO_BUILTINS = 7 };

// Of arithmetic: denormals are zeros, nothing is contracted, quotients and roots are IEEE (docs/numerics.md).
static void options_of(const zmi_cuda *d, char card[32], const char *options[OPTIONS]) {
  snprintf(card, 32, "--gpu-architecture=sm_%d%d%s", d->major, d->minor, d->major == 9 && d->minor == 0 ? "a" : "");
  const char *const all[OPTIONS] = {card, "-ftz=true", "-fmad=false", "-prec-div=true", "-prec-sqrt=true", "-std=c++17", "-w"};
  memcpy(options, all, sizeof all);
}

static void entry_name(const char *text, const char *const *options, int version, char name[NAME_BYTES]) {
  zmi_sha256 h;
  uint8_t digest[32];
  zmi_sha256_start(&h);
  zmi_sha256_add(&h, text, strlen(text));
  for (int i = 0; i < OPTIONS; i++) zmi_sha256_add(&h, options[i], strlen(options[i]) + 1);
  zmi_sha256_add(&h, &version, sizeof version);
  zmi_sha256_end(&h, digest);
  int at = snprintf(name, NAME_BYTES, "cuda-");
  for (int i = 0; i < 16; i++) at += snprintf(name + at, NAME_BYTES - (size_t)at, "%02x", digest[i]);
  snprintf(name + at, NAME_BYTES - (size_t)at, ".cubin");
}

// The first lines of what the compiler says.
static zm_status compiler_failed(const zmi_nvrtc *n, nvrtc_program program, const char *of, const char *card, int result) {
  size_t size = 0;
  char *words = n->log_size(program, &size) == 0 && size ? zmi_calloc(1, size + 1) : NULL;
  if (words) n->log_text(program, words);
  for (char *p = words; p && *p; p++) {
    if ((unsigned char)*p < 32) *p = ' '; // one sentence, one line
  }
  zm_status status =
      result == NVRTC_NO_BUILTINS
          ? zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: NVRTC cannot compile: libnvrtc-builtins, which belongs to it, cannot be loaded")
          : zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: NVRTC cannot compile %.80s with %s (error %d): %.400s", of, card, result,
                     words && *words ? words : "it gives no reason");
  zmi_free(words);
  return status;
}

static zm_status build(const zmi_nvrtc *n, const zmi_device_text *t, const char *const *options, char **image, size_t *size) {
  nvrtc_program program = NULL;
  if (n->create(&program, t->text, t->file, 0, NULL, NULL)) return zmi_fail(ZM_ERROR_MEMORY, "device cuda: NVRTC does not start");
  const int result = n->compile(program, OPTIONS, options);
  zm_status status = result ? compiler_failed(n, program, t->what, options[0], result) : ZM_OK;
  if (status == ZM_OK && (n->binary_size(program, size) || *size == 0))
    status = zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: NVRTC gives no machine code for %s", options[0]);
  if (status == ZM_OK && !(*image = zmi_malloc(*size))) status = ZM_ERROR_MEMORY;
  if (status == ZM_OK && n->binary(program, *image)) status = zmi_fail(ZM_ERROR_UNSUPPORTED, "device cuda: NVRTC gives no machine code");
  n->destroy(&program);
  return status;
}

// Compiles, and keeps what was made. Where that cannot be, it is said: it takes so long each time.
static zm_status compile_and_keep(const zmi_cuda *d, const zmi_device_text *t, const zmi_cache *cache, const char *const *options,
                                  const char *name, zm_progress_fn progress, void *user, char **image) {
  char what[400];
  size_t size = 0;
  if (cache->folder)
    snprintf(what, sizeof what, "compiling for %.80s (once)", d->name);
  else
    snprintf(what, sizeof what, "compiling for %.80s (each time: %.250s)", d->name, cache->why);
  if (progress && !progress(user, what, 0, 1)) return zmi_fail(ZM_ERROR_CANCELLED, "compiling device code was cancelled");
  zm_status status = build(zmi_nvrtc_find(), t, options, image, &size);
  if (status != ZM_OK) return status;
  if (!zmi_cache_put(cache, name, *image, size) && cache->folder)
    snprintf(what, sizeof what, "compiled for %.80s, but not kept: %.250s cannot be written", d->name, cache->folder);
  if (progress) progress(user, what, 1, 1);
  return ZM_OK;
}

zm_status zmi_device_compile(zmi_cuda *d, const zmi_device_text *t, bool anew, zm_progress_fn progress, void *user, char **image,
                             bool *kept) {
  char card[32], name[NAME_BYTES];
  const char *options[OPTIONS];
  int major = 0, minor = 0;
  size_t size = 0;
  zmi_cache cache;
  *image = NULL;
  options_of(d, card, options);
  const zmi_nvrtc *n = zmi_nvrtc_find();
  if (!n) return zm_last_status();
  n->version(&major, &minor);
  entry_name(t->text, options, major * 1000 + minor, name);
  zmi_cache_open(&cache);
  if (!anew) *image = zmi_cache_read(&cache, name, &size);
  *kept = *image != NULL;
  const zm_status status = *kept ? ZM_OK : compile_and_keep(d, t, &cache, options, name, progress, user, image);
  zmi_cache_close(&cache);
  if (status == ZM_OK) return ZM_OK;
  zmi_free(*image);
  *image = NULL;
  return status;
}
