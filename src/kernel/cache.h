// Compiled kernels: made by the system C compiler in a child process, kept in one folder on disk that many processes share.
#ifndef ZMI_KERNEL_CACHE_H
#define ZMI_KERNEL_CACHE_H

#include "base/base.h"

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
