// The files behind zm_smart_patch: cache folder/smart-<hash of the key>.json. One file a key, published by rename, so that processes that
// measure at the same time never lose each other's results. Nothing of a file is shown or trusted beyond what is checked here.
#include "tools/smart_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SCHEMA = 1, LARGEST_FILE = 64 << 10, MOST_FILES = 64, NAME_SIZE = 27 }; // NAME_SIZE: smart-0123456789abcdef.json

static const char *const outcome_names[ZMI_SMART_OUTCOMES] = {"kept", "no place", "no gain", "differs"};

zmi_patterns zmi_smart_kept(const zmi_smart_choice *choice) {
  zmi_patterns kept = 0;
  for (size_t i = 0; i < choice->count; i++) {
    if (choice->entries[i].outcome == ZMI_SMART_KEPT) kept |= (zmi_patterns)1 << choice->entries[i].pattern;
  }
  return kept;
}

// ---- the key and its file ----

static json_t *pattern_names(zmi_patterns patterns) {
  json_t *names = json_array();
  for (size_t i = 0; i < zm_pattern_count() && names; i++) {
    if (!(patterns >> i & 1) || json_array_append_new(names, json_string(zm_pattern_name(i))) == 0) continue;
    json_decref(names);
    names = NULL;
  }
  return names;
}

static json_t *make_key(const zm_model *m, zmi_patterns candidates, int32_t rounds, int32_t tokens) {
  static const char *const of_machine[] = {"cpu", "isa", "compiler", "version", "commit"};
  zm_model_info info;
  zm_model_get_info(m, &info);
  json_t *key =
      json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:I, s:i, s:i, s:i, s:o, s:o}", "family", info.family, "quantization",
                info.quantization, "dtype", zm_dtype_name(info.dtype), "activations", (int)info.activations, "layers", info.layers,
                "hidden", info.hidden, "vocab", info.vocab, "weight_bytes", (json_int_t)info.weight_bytes, "threads", info.threads,
                "rounds", rounds, "tokens", tokens, "patterns", pattern_names(~(zmi_patterns)0), "candidates", pattern_names(candidates));
  json_t *machine = zmi_machine_json(zmi_model_kernels(m));
  bool whole = key && machine;
  for (size_t i = 0; i < ZMI_COUNT(of_machine) && whole; i++)
    whole = json_object_set(key, of_machine[i], json_object_get(machine, of_machine[i])) == 0;
  json_decref(machine);
  if (whole) return key;
  json_decref(key);
  return NULL;
}

// FNV-1a of the key's sorted text. Keys that share a hash share a file: the key inside decides.
static bool hash_key(const json_t *key, uint64_t *hash) {
  char *text = json_dumps(key, JSON_COMPACT | JSON_SORT_KEYS);
  if (!text) return false;
  *hash = UINT64_C(0xcbf29ce484222325);
  for (const char *c = text; *c; c++) *hash = (*hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
  free(text);
  return true;
}

void zmi_smart_memory_open(zmi_smart_memory *s, const zm_model *m, zmi_patterns candidates, int32_t rounds, int32_t tokens) {
  uint64_t hash = 0;
  char name[NAME_SIZE + 1];
  *s = (zmi_smart_memory){.key = make_key(m, candidates, rounds, tokens)};
  if (s->key && hash_key(s->key, &hash)) s->folder = zmi_cache_folder();
  snprintf(name, sizeof name, "smart-%016llx.json", (unsigned long long)hash);
  if (s->folder) s->path = zmi_path_join(s->folder, name);
  if (!s->path) zmi_smart_memory_close(s);
  zmi_error_clear();
}

void zmi_smart_memory_close(zmi_smart_memory *s) {
  json_decref(s->key);
  zmi_free(s->folder);
  zmi_free(s->path);
  *s = (zmi_smart_memory){0};
}

// ---- reading ----

static bool read_entry(const json_t *j, size_t pattern, zmi_smart_entry *e) {
  const char *name = json_string_value(json_object_get(j, "pattern")), *outcome = json_string_value(json_object_get(j, "outcome"));
  const json_t *speedup = json_object_get(j, "speedup");
  if (!name || strcmp(name, zm_pattern_name(pattern)) != 0 || !outcome || json_array_size(speedup) != 3) return false;
  *e = (zmi_smart_entry){.pattern = pattern, .outcome = ZMI_SMART_OUTCOMES};
  for (int i = 0; i < ZMI_SMART_OUTCOMES; i++)
    if (strcmp(outcome, outcome_names[i]) == 0) e->outcome = (zmi_smart_outcome)i;
  zmi_interval v = {json_number_value(json_array_get(speedup, 0)), json_number_value(json_array_get(speedup, 1)),
                    json_number_value(json_array_get(speedup, 2))};
  e->speedup = v;
  // The rules by which a choice is made hold for a remembered one too.
  if (e->outcome == ZMI_SMART_OUTCOMES || v.low < 0 || v.low > v.median || v.median > v.high) return false;
  return e->outcome == ZMI_SMART_KEPT ? v.low > 1 : e->outcome != ZMI_SMART_NO_GAIN || v.low <= 1;
}

static bool read_choice(const json_t *file, const json_t *key, zmi_patterns candidates, zmi_smart_choice *choice) {
  const json_t *entries = json_object_get(file, "entries");
  *choice = (zmi_smart_choice){.count = 0};
  if (json_integer_value(json_object_get(file, "schema")) != SCHEMA || !json_equal(json_object_get(file, "key"), key)) return false;
  for (size_t i = 0; i < zm_pattern_count(); i++) {
    if (!(candidates >> i & 1)) continue;
    if (!read_entry(json_array_get(entries, choice->count), i, &choice->entries[choice->count])) return false;
    choice->count++;
  }
  return json_array_size(entries) == choice->count;
}

bool zmi_smart_recall(const zmi_smart_memory *s, zmi_patterns candidates, zmi_smart_choice *choice) {
  char *text = NULL;
  size_t size = 0;
  struct stat st;
  if (!s->path || stat(s->path, &st) != 0 || !S_ISREG(st.st_mode)) return false; // opening a pipe would wait
  json_t *file = zmi_read_file(s->path, LARGEST_FILE, &text, &size) == ZM_OK ? json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL) : NULL;
  bool found = file && read_choice(file, s->key, candidates, choice);
  json_decref(file);
  zmi_free(text);
  zmi_error_clear();
  return found;
}

// ---- writing ----

static json_t *choice_json(const zmi_smart_choice *choice) {
  json_t *entries = json_array();
  for (size_t i = 0; i < choice->count && entries; i++) {
    const zmi_smart_entry *e = &choice->entries[i];
    json_t *j = json_pack("{s:s, s:s, s:[f, f, f]}", "pattern", zm_pattern_name(e->pattern), "outcome", outcome_names[e->outcome],
                          "speedup", e->speedup.median, e->speedup.low, e->speedup.high);
    if (j && json_array_append_new(entries, j) == 0) continue;
    json_decref(entries);
    entries = NULL;
  }
  return entries;
}

static zm_status write_text(const char *path, const char *text) {
  zmi_writer *w = zmi_writer_open(path);
  zm_status status = w ? zmi_writer_write(w, text, strlen(text)) : zm_last_status();
  if (status == ZM_OK) status = zmi_writer_write(w, "\n", 1);
  if (status == ZM_OK) return zmi_writer_publish(w);
  zmi_writer_abandon(w);
  return status;
}

static zm_status make_folders(char *path) {
  for (char *c = path + 1; *path && *c; c++) {
    if (*c != '/') continue;
    *c = 0;
    if (!zmi_path_is_folder(path)) (void)zmi_make_folder(path); // what matters is whether the last one can be made
    *c = '/';
  }
  return zmi_make_folder(path);
}

typedef struct old_file {
  char name[NAME_SIZE + 1];
  struct timespec written;
} old_file;

static int by_age(const void *a, const void *b) {
  const struct timespec *x = &((const old_file *)a)->written, *y = &((const old_file *)b)->written;
  if (x->tv_sec != y->tv_sec) return x->tv_sec < y->tv_sec ? -1 : 1;
  return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

static bool is_ours(const char *name) {
  return strlen(name) == NAME_SIZE && strncmp(name, "smart-", 6) == 0 && strspn(name + 6, "0123456789abcdef") == 16 &&
         strcmp(name + 22, ".json") == 0;
}

// Every new build has keys of its own, so old files would pile up.
static void remove_oldest(const zmi_smart_memory *s) {
  old_file *files = NULL;
  size_t count = 0, capacity = 0;
  DIR *folder = opendir(s->folder);
  if (!folder) return;
  for (struct dirent *d; (d = readdir(folder)) != NULL;) {
    struct stat st;
    if (!is_ours(d->d_name) || strcmp(d->d_name, s->path + strlen(s->path) - NAME_SIZE) == 0) continue; // not the one just written
    if (fstatat(dirfd(folder), d->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode)) continue;
    if (!ZMI_GROW(files, capacity, count + 1)) break;
    memcpy(files[count].name, d->d_name, sizeof files->name);
    files[count++].written = st.st_mtim;
  }
  if (count) qsort(files, count, sizeof *files, by_age);
  for (size_t i = 0; i + MOST_FILES - 1 < count; i++) unlinkat(dirfd(folder), files[i].name, 0);
  closedir(folder);
  zmi_free(files);
}

void zmi_smart_store(const zmi_smart_memory *s, const zmi_smart_choice *choice) {
  if (!s->path) return;
  json_t *file = json_pack("{s:i, s:O, s:o}", "schema", SCHEMA, "key", s->key, "entries", choice_json(choice));
  char *text = file ? json_dumps(file, JSON_INDENT(1)) : NULL;
  if (text && make_folders(s->folder) == ZM_OK && write_text(s->path, text) == ZM_OK) remove_oldest(s);
  json_decref(file);
  free(text);
  zmi_error_clear();
}
