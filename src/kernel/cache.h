// Compiled kernels: made by the system C compiler in a child process, kept in one folder on disk that many processes share.
#ifndef ZMI_KERNEL_CACHE_H
#define ZMI_KERNEL_CACHE_H

#include "base/base.h"

// ---- content hashes (sha256.c) ----
typedef struct zmi_sha256 {
  uint32_t state[8];
  uint64_t size;
  uint8_t block[64];
} zmi_sha256;
void zmi_sha256_start(zmi_sha256 *h);
void zmi_sha256_add(zmi_sha256 *h, const void *data, size_t size);
void zmi_sha256_end(zmi_sha256 *h, uint8_t digest[32]);

// ---- the folder (cache.c) ----
// `kernels` in the cache folder: of this user alone (0700), at most ZMLX_CACHE_MB megabytes; what was used longest ago goes first. Entries
// are files named by the hash of all that went into them, with a checksum of their own; one that is damaged counts as absent.
typedef struct zmi_cache {
  char *folder; // NULL: there is none that can be used; `why` says the reason
  char why[256];
} zmi_cache;
void zmi_cache_open(zmi_cache *c);
void zmi_cache_close(zmi_cache *c);
// The path of a sound entry, marked as used; NULL if there is none. name: a file name. The caller frees it.
char *zmi_cache_find(const zmi_cache *c, const char *name);
// Publishes the bytes of a file as an entry, then makes room. False if it could not be written.
bool zmi_cache_put(const zmi_cache *c, const char *name, const void *data, size_t size);
// Content of an entry without its checksum; the caller frees it. NULL if there is no sound one.
char *zmi_cache_read(const zmi_cache *c, const char *name, size_t *size);
typedef struct zmi_cache_facts {
  size_t entries;
  uint64_t bytes, limit;
} zmi_cache_facts;
zmi_cache_facts zmi_cache_look(const zmi_cache *c);
size_t zmi_cache_clear(const zmi_cache *c); // the number of files removed
// Removes workplaces of compilers that nobody has touched for an hour: folders of this user whose names start so. Every put does it.
void zmi_cache_sweep(const char *folder, const char *start);

// ---- tuning (tune.c) ----
struct zmi_code;
// Ways are numbered; 0 is the usual one. What is remembered for a kernel and a class of shape; -1: nothing.
bool zmi_tuning_interprets(int way);
int zmi_tuning_interpreter(void);                                                             // the way that is the interpreter
int zmi_tuning_recall(const struct zmi_code *code, const char *tier, int shape, int *pieces); // *pieces: as for zmi_instance_share
// A kernel compiled in one way; NULL: see zmi_compile_c.
void *zmi_tuning_compile(const struct zmi_code *code, const char *tier, int way, bool only_cached, char note[512], bool *was_cached);

// ---- the compiler (compile.c) ----
// Takes C source to a loaded shared object, from the cache if it is there. Returns a handle for dlsym, or NULL: then `note` is one sentence
// that says why, with the compiler's first words and where the source was kept. A failure is an entry of the cache too: for an hour the
// compiler is not asked again, by any process, and its source stands beside it. tier: its name, behind a blank one more flag.
// `only_cached`: nothing is compiled; note is empty then.
void *zmi_compile_c(const char *name, const char *source, const char *tier, bool only_cached, char note[512], bool *was_cached);
void zmi_compile_unload(void *handle);
// "gcc (Debian 12.2.0-14) 12.2.0 at /usr/bin/x86_64-linux-gnu-gcc-12"; false with the reason if there is none.
bool zmi_compiler_facts(char text[512]);

#endif
