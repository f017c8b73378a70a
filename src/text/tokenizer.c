// Opening and closing tokenizers, and what can be asked about their tokens.
#include "text/internal.h"

#include <string.h>

enum { MAX_FILE = 512 << 20 };

// bos_token and eos_token of tokenizer_config.json: a string, an object with "content", or null.
static zm_status read_special(const zm_tokenizer *t, const zmi_json *doc, const char *key, int32_t *id) {
  const zmi_json_node *node = zmi_json_get(doc, zmi_json_root(doc), key);
  int64_t found;
  *id = -1;
  if (!node) return ZM_OK;
  const zmi_json_node *content = node->type == JSON_OBJECT ? zmi_json_get(doc, node, "content") : node;
  if (!content || content->type != JSON_STRING) return zmi_json_fail(doc, "", key, node, "a token, an object with its content, or null");
  if (!zmi_map_get(t->names, content->text, content->size, &found) && !zmi_map_get(t->bpe.vocab, content->text, content->size, &found))
    return zmi_json_fail(doc, "", key, content, "a token that tokenizer.json has");
  *id = (int32_t)found;
  return ZM_OK;
}

static zm_status read_config(zm_tokenizer *t, const char *path) {
  char *data;
  size_t size;
  zmi_json doc;
  zm_status status = zmi_read_file(path, MAX_FILE, &data, &size);
  if (status != ZM_OK) return status;
  status = zmi_json_parse(&doc, path, data, size);
  if (status == ZM_OK && zmi_json_root(&doc)->type != JSON_OBJECT)
    status = zmi_json_fail(&doc, "the document", NULL, zmi_json_root(&doc), "an object");
  if (status == ZM_OK) status = read_special(t, &doc, "bos_token", &t->bos);
  if (status == ZM_OK) status = read_special(t, &doc, "eos_token", &t->eos);
  zmi_json_release(&doc);
  return status;
}

// tokenizer_config.json in the folder of tokenizer.json; a folder without one names no special tokens.
static zm_status open_config(zm_tokenizer *t, const char *file) {
  const char *slash = strrchr(file, '/');
  char *folder = zmi_strdup(slash ? file : ".");
  if (!folder) return ZM_ERROR_MEMORY;
  if (slash) folder[slash == file ? 1 : slash - file] = 0;
  char *path = zmi_path_join(folder, "tokenizer_config.json");
  zmi_free(folder);
  if (!path) return ZM_ERROR_MEMORY;
  zm_status status = zmi_path_exists(path) ? read_config(t, path) : ZM_OK;
  zmi_free(path);
  return status;
}

static zm_status load(zm_tokenizer *t, const char *file) {
  char *data;
  size_t size;
  zmi_json doc;
  zm_status status = zmi_read_file(file, MAX_FILE, &data, &size);
  if (status != ZM_OK) return status;
  status = zmi_json_parse(&doc, file, data, size);
  if (status == ZM_OK) status = zmi_load_tokenizer(t, &doc);
  zmi_json_release(&doc);
  return status == ZM_OK ? open_config(t, file) : status;
}

zm_tokenizer *zm_tokenizer_open(const char *path) {
  if (!path || !*path) {
    zmi_fail(ZM_ERROR_ARGUMENT, "zm_tokenizer_open: no path was given");
    return NULL;
  }
  char *file = zmi_path_is_folder(path) ? zmi_path_join(path, "tokenizer.json") : zmi_strdup(path);
  zm_tokenizer *t = file ? zmi_calloc(1, sizeof *t) : NULL;
  zm_status status = ZM_ERROR_MEMORY;
  if (t) {
    t->bos = t->eos = -1;
    status = load(t, file);
  }
  zmi_free(file);
  if (status == ZM_OK) return t;
  zm_tokenizer_close(t);
  return NULL;
}

void zm_tokenizer_close(zm_tokenizer *t) {
  if (!t) return;
  for (size_t i = 0; i < t->normalizer_count; i++) {
    zmi_regex_free(t->normalizers[i].regex);
    zmi_free(t->normalizers[i].pattern);
    zmi_free(t->normalizers[i].content);
  }
  // The last stage may have been handed to the model; its place is empty.
  for (size_t i = 0; t->stages && i < t->stage_count; i++) {
    zmi_regex_free(t->stages[i].regex);
    zmi_free(t->stages[i].string);
  }
  zmi_bpe_release(&t->bpe);
  zmi_free(t->normalizers);
  zmi_free(t->stages);
  zmi_free(t->added);
  zmi_free(t->trie.nodes);
  zmi_free(t->normal_trie.nodes);
  zmi_free(t->template_ids);
  zmi_free(t->token_bytes);
  zmi_free(t->token_at);
  zmi_free(t->special);
  zmi_free(t->present);
  zmi_map_free(t->names);
  zmi_free(t);
}

int32_t zm_tokenizer_size(const zm_tokenizer *t) { return t ? t->size : 0; }
int32_t zm_tokenizer_bos(const zm_tokenizer *t) { return t ? t->bos : -1; }
int32_t zm_tokenizer_eos(const zm_tokenizer *t) { return t ? t->eos : -1; }
bool zm_tokenizer_is_special(const zm_tokenizer *t, int32_t id) { return t && id >= 0 && id < t->size && t->special[id]; }

int32_t zm_tokenizer_id(const zm_tokenizer *t, const char *token) {
  int64_t id;
  if (!t || !token) return -1;
  size_t size = strlen(token);
  return zmi_map_get(t->names, token, size, &id) || zmi_map_get(t->bpe.vocab, token, size, &id) ? (int32_t)id : -1;
}
