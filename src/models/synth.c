// Random checkpoints of the shapes of a configuration, for speed and memory measurements. Values are drawn so that activations keep a
// spread near one and routers spread over their experts; each byte depends on seed, tensor name and place only. Tensors are made in pieces
// and written as they are made.
#include "models/checkpoint.h"
#include "models/family.h"
#include "models/model.h"

#include <errno.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PIECE_BYTES = 32 << 20 };
static const uint64_t most_shard_bytes = (uint64_t)5 << 30;

typedef enum kind { CODES, SCALES, BIASES, UNIFORM, ONES, E4M3_CODES, E4M3_SCALES, E8M0_SCALES } kind;

typedef struct made_tensor {
  zmi_tensor tensor; // name owned
  kind kind;
  uint64_t key;
  double width;      // all kinds of scales, BIASES: the middle of |scale|; UNIFORM: values lie in [-width, width]; ONES: in 1 +- width
  double half_codes; // BIASES: half of the largest code
  int shard;
} made_tensor;

typedef struct recipe {
  const zmi_config *config;
  uint64_t seed;
  made_tensor *tensors;
  size_t count, capacity;
  uint64_t bytes, parameters;
  int shards;
} recipe;

// ---- what a checkpoint consists of ----

static uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

static uint64_t name_key(uint64_t seed, const char *name) {
  uint64_t h = 0xcbf29ce484222325u; // FNV-1a
  for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
  return mix(h ^ mix(seed + 0x9e3779b97f4a7c15u));
}

static zm_status add(recipe *r, const char *name, kind what, zm_dtype dtype, int rank, const int64_t *shape, double width) {
  if (!ZMI_GROW(r->tensors, r->capacity, r->count + 1)) return ZM_ERROR_MEMORY;
  const zmi_type type = zmi_type_of(dtype, rank, shape);
  made_tensor t = {.kind = what, .key = name_key(r->seed, name), .width = width};
  t.tensor = (zmi_tensor){.name = zmi_strdup(name), .dtype = dtype, .rank = rank};
  memcpy(t.tensor.shape, shape, (size_t)rank * sizeof *shape);
  if (!t.tensor.name) return ZM_ERROR_MEMORY;
  r->tensors[r->count++] = t;
  if (!zmi_type_bytes(&type, &r->tensors[r->count - 1].tensor.bytes)) return zmi_fail(ZM_ERROR_FORMAT, "config.json: %s: too large", name);
  return ZM_OK;
}

static zm_status add_matrix(void *self, const zmi_want *want, zmi_held *held) {
  recipe *r = self;
  const zmi_source sizes = zmi_blueprint_source(r->config);
  zm_status status = sizes.matrix(sizes.self, want, held);
  if (status != ZM_OK) return status;
  const zm_dtype dtype = r->config->stored;
  const zmi_format *f = &held->format;
  const double spread = 1.0 / __builtin_sqrt((double)want->k);
  char name[ZMI_NAME + 16];
  int64_t shape[3];
  int rank = 0;
  if (want->stacked) shape[rank++] = want->experts;
  shape[rank++] = want->n;
  snprintf(name, sizeof name, "%s.weight", want->name);
  r->parameters += (uint64_t)(want->experts * want->n * want->k);
  if (f->mode == ZMI_QUANT_NONE) {
    shape[rank++] = want->k;
    status = add(r, name, UNIFORM, dtype, rank, shape, spread * __builtin_sqrt(3.0));
  } else if (f->mode != ZMI_QUANT_AFFINE) {
    const bool eight = f->bits == 8;
    const double size = eight ? 0.598 : 2.926; // root mean square of what codes drawn evenly stand for
    shape[rank++] = want->k * f->bits / 32;
    status = add(r, name, eight ? E4M3_CODES : CODES, ZM_U32, rank, shape, 0);
    shape[rank - 1] = want->k / f->group;
    snprintf(name, sizeof name, "%s.scales", want->name);
    if (status == ZM_OK)
      status = add(r, name, f->mode == ZMI_QUANT_NVFP4 ? E4M3_SCALES : E8M0_SCALES, ZM_U8, rank, shape, spread / size);
  } else {
    const double codes = (double)((int64_t)1 << f->bits);
    const double scale = spread / __builtin_sqrt((codes * codes - 1.0) / 12.0); // of codes drawn evenly
    shape[rank++] = want->k * f->bits / 32;
    status = add(r, name, CODES, ZM_U32, rank, shape, 0);
    shape[rank - 1] = want->k / f->group;
    snprintf(name, sizeof name, "%s.scales", want->name);
    if (status == ZM_OK) status = add(r, name, SCALES, dtype, rank, shape, scale);
    const uint64_t key = name_key(r->seed, name); // biases follow from their scales
    snprintf(name, sizeof name, "%s.biases", want->name);
    if (status == ZM_OK) status = add(r, name, BIASES, dtype, rank, shape, scale);
    if (status == ZM_OK) r->tensors[r->count - 1].key = key;
    if (status == ZM_OK) r->tensors[r->count - 1].half_codes = (codes - 1.0) / 2.0;
  }
  if (status != ZM_OK || !want->bias) return status;
  snprintf(name, sizeof name, "%s.bias", want->name);
  return add(r, name, UNIFORM, dtype, 1, &want->n, 0.02);
}

static zm_status add_vector(void *self, const zmi_want *want, zmi_held *held) {
  recipe *r = self;
  const zmi_source sizes = zmi_blueprint_source(r->config);
  zm_status status = sizes.vector(sizes.self, want, held);
  if (status != ZM_OK) return status;
  r->parameters += held->bytes / zm_dtype_size(held->dtype);
  if (want->rank == 1) {
    const char *end = strrchr(want->name, '.');
    const bool norm = end && strcmp(end, ".weight") == 0;
    return add(r, want->name, norm ? ONES : UNIFORM, held->dtype, 1, want->shape, norm ? 0.1 : 0.02);
  }
  const int64_t shape[3] = {want->shape[0], want->shape[1], 1}; // a depthwise convolution, as MLX stores it
  return add(r, want->name, UNIFORM, held->dtype, 3, shape, __builtin_sqrt(3.0 / (double)want->shape[1]));
}

// Cuts the tensors into shards, in their order.
static void cut(recipe *r) {
  uint64_t filled = 0;
  for (size_t i = 0; i < r->count; i++) {
    const uint64_t bytes = r->tensors[i].tensor.bytes;
    if (filled > 0 && filled + bytes > most_shard_bytes) {
      r->shards++;
      filled = 0;
    }
    filled += bytes;
    r->bytes += bytes;
    r->tensors[i].shard = r->shards;
  }
  r->shards++;
}

// ---- filling ----

typedef struct piece {
  const made_tensor *t;
  uint64_t begin; // byte of the tensor; a multiple of 64
  size_t size;
  uint8_t *out;
} piece;

static uint64_t word(uint64_t key, uint64_t i) {
  return mix(key + i * 0x9e3779b97f4a7c15u);
}

static void put(const made_tensor *t, uint8_t *out, float value) {
  const uint16_t half = t->tensor.dtype == ZM_BF16 ? zmi_f32_to_bf16(value) : t->tensor.dtype == ZM_F16 ? zmi_f32_to_f16(value) : 0;
  if (t->tensor.dtype == ZM_F32)
    memcpy(out, &value, 4);
  else
    memcpy(out, &half, 2);
}

// The scale of a group, before it is rounded: of either sign, within a quarter of the middle.
static float scale_of(const made_tensor *t, uint64_t group) {
  const uint64_t w = word(t->key, group);
  const double size = t->width * (0.75 + 0.5 * (double)(w >> 40) / 16777216.0);
  return (float)(w & 1 ? -size : size);
}

static float value_of(const made_tensor *t, uint64_t i) {
  const uint64_t bits = word(t->key, i / 4) >> (i % 4 * 16) & 0xffff;
  const float even = ((float)bits - 32767.5f) * (1.0f / 32768.0f);
  if (t->kind == SCALES) return scale_of(t, i);
  if (t->kind == BIASES) return -(float)t->half_codes * scale_of(t, i);
  return t->kind == ONES ? 1.0f + (float)t->width * even : (float)t->width * even;
}

// Scale bytes of about the middle: powers of two on both sides of it, or e4m3 within a quarter.
static uint8_t byte_of(const made_tensor *t, uint64_t i) {
  const uint64_t w = word(t->key, i);
  if (t->kind == E4M3_SCALES) return zmi_f32_to_e4m3((float)(t->width * (0.75 + 0.5 * (double)(w >> 40) / 16777216.0)));
  const float middle = (float)(t->width * 0.894); // of 1 and 2, the root of 5/2: what both together come to
  uint32_t bits;
  memcpy(&bits, &middle, 4);
  return (uint8_t)((bits >> 23) + (w & 1));
}

static void fill_bytes(const piece *p, size_t from, size_t to) {
  for (size_t at = from; at < to; at++) p->out[at] = byte_of(p->t, p->begin + at);
}

static void fill_share(void *user, int worker, int workers) {
  const piece *p = user;
  const size_t lines = (p->size + 63) / 64;
  const size_t from = lines * (size_t)worker / (size_t)workers * 64,
               to = ZMI_MIN(lines * ((size_t)worker + 1) / (size_t)workers * 64, p->size);
  if (p->t->kind == E4M3_SCALES || p->t->kind == E8M0_SCALES) {
    fill_bytes(p, from, to);
    return;
  }
  if (p->t->kind == CODES || p->t->kind == E4M3_CODES) {
    const uint64_t kept = p->t->kind == CODES ? UINT64_MAX : 0xbfbfbfbfbfbfbfbfu; // below 2 and no NaN among them
    for (size_t at = from; at < to; at += 8) {
      const uint64_t w = word(p->t->key, (p->begin + at) / 8) & kept;
      memcpy(p->out + at, &w, ZMI_MIN((size_t)8, to - at));
    }
    return;
  }
  const size_t step = zm_dtype_size(p->t->tensor.dtype);
  for (size_t at = from; at < to; at += step) put(p->t, p->out + at, value_of(p->t, (p->begin + at) / step));
}

// ---- writing ----

typedef struct writing {
  recipe r;
  const char *source;
  char *folder; // written here, then renamed
  uint8_t *buffer;
  zmi_pool *pool;
  zm_progress_fn progress;
  void *user;
  uint64_t done;
} writing;

static void shard_name(const recipe *r, int shard, char name[64]) {
  if (r->shards == 1)
    snprintf(name, 64, "model.safetensors");
  else
    snprintf(name, 64, "model-%05d-of-%05d.safetensors", shard + 1, r->shards);
}

static zm_status write_tensor(writing *w, zmi_tensors_writer *out, const made_tensor *t) {
  for (uint64_t at = 0; at < t->tensor.bytes; at += PIECE_BYTES) {
    piece p = {.t = t, .begin = at, .size = (size_t)ZMI_MIN((uint64_t)PIECE_BYTES, t->tensor.bytes - at), .out = w->buffer};
    zmi_pool_run(w->pool, fill_share, &p);
    zm_status status = zmi_tensors_writer_write(out, p.out, p.size);
    if (status != ZM_OK) return status;
    w->done += p.size;
    if (w->progress && !w->progress(w->user, "writing random weights", w->done, w->r.bytes))
      return zmi_fail(ZM_ERROR_CANCELLED, "writing the checkpoint was cancelled");
  }
  return ZM_OK;
}

static zm_status write_shard(writing *w, int shard) {
  size_t first = 0, count = 0;
  while (w->r.tensors[first].shard < shard) first++;
  while (first + count < w->r.count && w->r.tensors[first + count].shard == shard) count++;
  char name[64];
  shard_name(&w->r, shard, name);
  char *path = zmi_path_join(w->folder, name);
  zmi_tensor *headers = zmi_calloc(count, sizeof *headers);
  zm_status status = path && headers ? ZM_OK : ZM_ERROR_MEMORY;
  for (size_t i = 0; i < count && status == ZM_OK; i++) headers[i] = w->r.tensors[first + i].tensor;
  zmi_tensors_writer *out = status == ZM_OK ? zmi_tensors_writer_open(path, count, headers) : NULL;
  if (status == ZM_OK && !out) status = zm_last_status();
  for (size_t i = 0; i < count && status == ZM_OK; i++) status = write_tensor(w, out, &w->r.tensors[first + i]);
  if (status == ZM_OK)
    status = zmi_tensors_writer_publish(out);
  else if (out)
    zmi_tensors_writer_abandon(out);
  zmi_free(headers);
  zmi_free(path);
  return status;
}

static zm_status write_file(const writing *w, const char *name, const void *data, size_t size) {
  char *path = zmi_path_join(w->folder, name);
  zmi_writer *out = path ? zmi_writer_open(path) : NULL;
  zmi_free(path);
  if (!out) return zm_last_status();
  zm_status status = zmi_writer_write(out, data, size);
  if (status == ZM_OK) return zmi_writer_publish(out);
  zmi_writer_abandon(out);
  return status;
}

static int by_name(const void *a, const void *b) {
  return strcmp(((const made_tensor *)a)->tensor.name, ((const made_tensor *)b)->tensor.name);
}

static zm_status write_index(writing *w) {
  zmi_text text = {0};
  zmi_text_add(&text,
               "{\n    \"metadata\": {\n        \"total_size\": %llu,\n        \"total_parameters\": %llu\n    },\n    \"weight_map\": {",
               (unsigned long long)w->r.bytes, (unsigned long long)w->r.parameters);
  qsort(w->r.tensors, w->r.count, sizeof *w->r.tensors, by_name); // the shards are written
  for (size_t i = 0; i < w->r.count; i++) {
    char name[64];
    shard_name(&w->r, w->r.tensors[i].shard, name);
    zmi_text_add(&text, "%s\n        \"%s\": \"%s\"", i ? "," : "", w->r.tensors[i].tensor.name, name);
  }
  zmi_text_add(&text, "\n    }\n}\n");
  zm_status status = text.failed ? ZM_ERROR_MEMORY : write_file(w, "model.safetensors.index.json", text.data, text.size);
  zmi_text_release(&text);
  return status;
}

// Files beside the weights go along as they are, config.json last.
static const char *const copied[] = {"generation_config.json", "tokenizer.json", "tokenizer_config.json", "config.json"};

static zm_status copy_file(const writing *w, const char *name) {
  char *path = zmi_path_join(w->source, name), *data = NULL;
  if (!path) return ZM_ERROR_MEMORY;
  size_t size = 0;
  zm_status status = ZM_OK;
  if (zmi_path_exists(path)) {
    status = zmi_read_file(path, (size_t)1 << 28, &data, &size);
    if (status == ZM_OK) status = write_file(w, name, data, size);
  }
  zmi_free(data);
  zmi_free(path);
  return status;
}

static void remove_file(const writing *w, const char *name) {
  char *path = zmi_path_join(w->folder, name);
  if (path) unlink(path);
  zmi_free(path);
}

static void remove_all(const writing *w) {
  char name[64];
  for (int shard = 0; shard < w->r.shards; shard++) {
    shard_name(&w->r, shard, name);
    remove_file(w, name);
  }
  remove_file(w, "model.safetensors.index.json");
  for (size_t i = 0; i < ZMI_COUNT(copied); i++) remove_file(w, copied[i]);
  rmdir(w->folder);
}

static zm_status write_all(writing *w, const char *target) {
  zm_status status = zmi_make_folder(w->folder);
  if (status != ZM_OK) return status;
  for (int shard = 0; shard < w->r.shards && status == ZM_OK; shard++) status = write_shard(w, shard);
  if (status == ZM_OK) status = write_index(w);
  for (size_t i = 0; i < ZMI_COUNT(copied) && status == ZM_OK; i++) status = copy_file(w, copied[i]);
  if (status == ZM_OK && rename(w->folder, target) != 0)
    status = zmi_fail(ZM_ERROR_FILE, "%s: cannot be put in place: %s", target, strerror(errno));
  if (status != ZM_OK) remove_all(w);
  return status;
}

zm_status zmi_synth(const char *config_folder, const char *out_folder, uint64_t seed, zm_progress_fn progress, void *user) {
  zmi_config config = {0};
  writing w = {.source = config_folder, .progress = progress, .user = user};
  if (zmi_path_exists(out_folder))
    return zmi_fail(ZM_ERROR_FILE, "%s exists already: choose another folder, or remove it first", out_folder);
  zm_status status = zmi_config_read(config_folder, &config);
  w.r.config = &config;
  w.r.seed = seed;
  if (status == ZM_OK) {
    const zmi_source source = {.self = &w.r, .matrix = add_matrix, .vector = add_vector};
    zmi_step step = {.config = &config,
                     .source = source,
                     .dtype = zmi_choose_dtype(ZM_DTYPE_DEFAULT, config.stored),
                     .sequences = 1,
                     .context = ZMI_KEY_BLOCK};
    status = zmi_step_visit(&step, NULL);
  }
  zmi_text folder = {0};
  if (status == ZM_OK) {
    cut(&w.r);
    zmi_text_add(&folder, "%s.part-%ld", out_folder, (long)getpid());
    w.folder = folder.data;
    w.pool = zmi_pool_new(0);
    w.buffer = zmi_block_alloc(PIECE_BYTES);
    status = w.pool && w.buffer && !folder.failed ? write_all(&w, out_folder) : ZM_ERROR_MEMORY;
  }
  zmi_text_release(&folder);
  if (w.buffer) zmi_block_free(w.buffer, PIECE_BYTES);
  zmi_pool_free(w.pool);
  for (size_t i = 0; i < w.r.count; i++) zmi_free((char *)(uintptr_t)w.r.tensors[i].tensor.name);
  zmi_free(w.r.tensors);
  zmi_config_release(&config);
  return status;
}
