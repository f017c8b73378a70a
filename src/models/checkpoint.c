// Weights from a checkpoint: finds tensors by name, checks dtype and shape, and packs matrices on all workers while the pages of the
// file are let go behind them. Weights that are loaded stay in a store, by name.
#include "models/checkpoint.h"
#include "models/family.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

// ---- the store ----

// Blocks of these sizes go into chunks. Smaller ones keep an allocation of their own, in which a checker of memory sees every overrun.
enum { CHUNK_BYTES = 32 << 20, CHUNK_LEAST = 16 << 10, CHUNK_MOST = 2 << 20, CHUNK_ALIGN = 64 };

static bool in_chunk(size_t bytes) {
  return bytes >= CHUNK_LEAST && bytes < CHUNK_MOST;
}

static void *store_alloc(zmi_store *s, size_t bytes) {
  if (!in_chunk(bytes)) return zmi_block_alloc(bytes);
  zmi_chunk *last = s->chunk_count ? &s->chunks[s->chunk_count - 1] : NULL;
  if (!last || bytes > CHUNK_BYTES - last->used) {
    if (!ZMI_GROW(s->chunks, s->chunk_capacity, s->chunk_count + 1)) return NULL;
    uint8_t *data = zmi_block_alloc(CHUNK_BYTES);
    if (!data) return NULL;
    last = &s->chunks[s->chunk_count++];
    *last = (zmi_chunk){.data = data};
  }
  void *p = last->data + last->used;
  last->used += (bytes + CHUNK_ALIGN - 1) / CHUNK_ALIGN * CHUNK_ALIGN;
  return p;
}

static void store_free(void *p, size_t bytes) {
  if (!in_chunk(bytes)) zmi_block_free(p, bytes);
}

void zmi_store_release(zmi_store *s) {
  for (size_t i = 0; i < s->count; i++) {
    zmi_store_entry *e = &s->entries[i];
    store_free(e->packed, e->held.bytes);
    store_free(e->bias, e->bias_bytes);
    store_free(e->data, e->data_bytes);
  }
  for (size_t i = 0; i < s->chunk_count; i++) zmi_block_free(s->chunks[i].data, CHUNK_BYTES);
  zmi_free(s->chunks);
  zmi_free(s->entries);
  zmi_map_free(s->index);
  *s = (zmi_store){0};
}

static const zmi_store_entry *store_find(const zmi_store *s, const char *name) {
  int64_t i;
  return s->index && zmi_map_get(s->index, name, strlen(name), &i) ? &s->entries[i] : NULL;
}

// Room for an entry that its name already leads to; it is released with the store however far loading gets.
static zmi_store_entry *store_add(zmi_store *s, const char *name) {
  if (!s->index && !(s->index = zmi_map_new())) return NULL;
  if (!ZMI_GROW(s->entries, s->capacity, s->count + 1)) return NULL;
  if (!zmi_map_put(s->index, name, strlen(name), (int64_t)s->count)) return NULL;
  s->entries[s->count] = (zmi_store_entry){0};
  return &s->entries[s->count++];
}

static zm_status stored(void *self, const zmi_want *want, zmi_held *held) {
  const zmi_store_entry *e = store_find(self, want->name);
  if (!e) return zmi_fail(ZM_ERROR_ARGUMENT, "%s was not loaded with the model", want->name);
  *held = e->held;
  return ZM_OK;
}

zmi_source zmi_store_source(zmi_store *s) {
  return (zmi_source){.self = s, .matrix = stored, .vector = stored};
}

// ---- opening ----

bool zmi_checkpoint_exists(const char *folder) {
  static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
  bool found = false;
  for (size_t i = 0; i < ZMI_COUNT(names) && !found; i++) {
    char *path = zmi_path_join(folder, names[i]);
    found = path && zmi_path_exists(path);
    zmi_free(path);
  }
  return found;
}

// The family's spelling of a tensor's name.
static void family_name(const zmi_config *config, const char *name, char out[ZMI_NAME]) {
  snprintf(out, ZMI_NAME, "%s", name);
  for (const struct zmi_rename *rename = config->family->renames; rename && rename->from; rename++) {
    const char *at = strstr(name, rename->from);
    if (at) snprintf(out, ZMI_NAME, "%.*s%s%s", (int)(at - name), name, rename->to, at + strlen(rename->from));
  }
}

// What MLX leaves out as well: frequencies that older checkpoints carry, and a head that the configuration ties to the embedding.
static bool ignored(const zmi_config *config, const char *name) {
  return strstr(name, "self_attn.rotary_emb.inv_freq") || (config->tied && strcmp(name, "lm_head.weight") == 0);
}

static const zmi_tensor *find(zmi_checkpoint *c, const char *format, const char *name) {
  char whole[ZMI_NAME + 16];
  snprintf(whole, sizeof whole, format, name);
  int64_t i;
  if (!zmi_map_get(c->names, whole, strlen(whole), &i)) return NULL;
  c->used[i] = true;
  return zmi_tensors_at(c->tensors, (size_t)i);
}

static bool is_float(zm_dtype dtype) {
  return dtype == ZM_BF16 || dtype == ZM_F16 || dtype == ZM_F32;
}

zm_status zmi_checkpoint_open(const char *folder, const zmi_config *config, zmi_checkpoint *c) {
  *c = (zmi_checkpoint){.config = config, .dtype = config->stored};
  c->tensors = zmi_tensors_open(folder);
  if (!c->tensors) return zm_last_status();
  const size_t count = zmi_tensors_count(c->tensors);
  c->names = zmi_map_new();
  c->used = zmi_calloc(count ? count : 1, sizeof *c->used);
  if (!c->names || !c->used) return ZM_ERROR_MEMORY;
  for (size_t i = 0; i < count; i++) {
    const zmi_tensor *t = zmi_tensors_at(c->tensors, i);
    char name[ZMI_NAME];
    family_name(config, t->name, name);
    c->bytes += t->bytes;
    c->used[i] = ignored(config, name);
    if (strlen(t->name) >= ZMI_NAME - 32) return zmi_fail(ZM_ERROR_FORMAT, "%.60s...: the tensor's name is too long", t->name);
    if (!zmi_map_put(c->names, name, strlen(name), (int64_t)i)) return ZM_ERROR_MEMORY;
  }
  const zmi_tensor *t = find(c, "%s.scales", "model.embed_tokens");
  if (!t) t = find(c, "%s.weight", "model.embed_tokens");
  if (t && is_float(t->dtype)) c->dtype = t->dtype;
  return ZM_OK;
}

void zmi_checkpoint_close(zmi_checkpoint *c) {
  zmi_tensors_close(c->tensors);
  zmi_map_free(c->names);
  zmi_free(c->used);
  *c = (zmi_checkpoint){0};
}

zm_status zmi_checkpoint_all_used(const zmi_checkpoint *c) {
  for (size_t i = 0; i < zmi_tensors_count(c->tensors); i++)
    if (!c->used[i])
      return zmi_fail(ZM_ERROR_FORMAT,
                      "%s is in the checkpoint but not part of the model that config.json describes (family %s, %d layers)",
                      zmi_tensors_at(c->tensors, i)->name, c->config->family->name, c->config->layers);
  return ZM_OK;
}

// ---- checks ----

static void shape_text(int rank, const int64_t *shape, char buffer[128]) {
  size_t at = (size_t)snprintf(buffer, 128, "[");
  for (int i = 0; i < rank && at < 100; i++) at += (size_t)snprintf(buffer + at, 128 - at, "%s%lld", i ? ", " : "", (long long)shape[i]);
  snprintf(buffer + at, 128 - at, "]");
}

static bool shape_is(const zmi_tensor *t, int rank, const int64_t *shape) {
  return t->rank == rank && memcmp(t->shape, shape, (size_t)rank * sizeof *shape) == 0;
}

static zm_status check_shape(const zmi_tensor *t, int rank, const int64_t *shape) {
  if (shape_is(t, rank, shape)) return ZM_OK;
  char want[128], found[128];
  shape_text(rank, shape, want);
  shape_text(t->rank, t->shape, found);
  return zmi_fail(ZM_ERROR_FORMAT, "%s: expected shape %s, found %s", t->name, want, found);
}

static zm_status check_float(const zmi_tensor *t) {
  if (is_float(t->dtype)) return ZM_OK;
  return zmi_fail(ZM_ERROR_FORMAT, "%s: expected bfloat16, float16 or float32, found %s%s", t->name, zm_dtype_name(t->dtype),
                  t->dtype == ZM_U32 ? " (packed codes without scales)" : "");
}

static zm_status missing(const zmi_checkpoint *c, const char *name, const char *part) {
  return zmi_fail(ZM_ERROR_FORMAT, "%s%s is missing from the checkpoint (family %s, %d layers)", name, part, c->config->family->name,
                  c->config->layers);
}

// The tensors of a matrix. Experts are one stacked tensor, or (unquantized, in the layout of the originals) one tensor each.
typedef struct parts {
  const zmi_tensor *weight, *scales, *biases, *bias;
  bool loose; // weight is expert 0's
} parts;

// "...switch_mlp.up_proj" -> "...experts.7.up_proj"
static const zmi_tensor *loose_expert(zmi_checkpoint *c, const char *name, int64_t expert) {
  const char *at = strstr(name, "switch_mlp.");
  if (!at) return NULL;
  char one[ZMI_NAME];
  snprintf(one, sizeof one, "%.*sexperts.%lld.%s", (int)(at - name), name, (long long)expert, at + strlen("switch_mlp."));
  return find(c, "%s.weight", one);
}

// Shape of a row of experts or of a plain matrix: [experts,] n, last.
static int matrix_shape(const zmi_want *want, int64_t last, int64_t shape[3]) {
  int rank = 0;
  if (want->stacked) shape[rank++] = want->experts;
  shape[rank++] = want->n;
  shape[rank++] = last;
  return rank;
}

static bool format_fits(const zmi_want *want, const parts *p, const zmi_format *f) {
  int64_t codes[3], groups[3];
  const int rank = matrix_shape(want, want->k * f->bits / 32, codes);
  matrix_shape(want, want->k / f->group, groups);
  return want->k % f->group == 0 && want->k * f->bits % 32 == 0 && shape_is(p->weight, rank, codes) && shape_is(p->scales, rank, groups);
}

// The format of a quantized matrix: what config.json says of it. A matrix that config.json does not name may also have any format that its
// shapes spell out, as in MLX.
static zm_status quantized_format(zmi_checkpoint *c, const zmi_want *want, const parts *p, zmi_format *f) {
  const zmi_override *override = zmi_config_override(c->config, want->name);
  *f = override ? override->format : c->config->format;
  if (!override && p->weight->rank > 0 && p->scales->rank == p->weight->rank && !(c->config->quantized && format_fits(want, p, f))) {
    const int64_t words = p->weight->shape[p->weight->rank - 1], groups = p->scales->shape[p->scales->rank - 1];
    const zmi_format spelled = {
        .mode = ZMI_QUANT_AFFINE, .bits = words * 32 / want->k, .group = groups > 0 ? want->k / groups : 0, .dtype = ZM_BF16};
    if (zmi_format_check(&spelled) == ZM_OK && format_fits(want, p, &spelled)) *f = spelled;
    zmi_error_clear();
  }
  if (f->bits == 0)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: the checkpoint has scales for it, but config.json names no quantization", want->name);
  if (want->k % f->group != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: rows of %lld values do not divide into quantization groups of %lld", want->name,
                    (long long)want->k, (long long)f->group);
  int64_t shape[3];
  const int rank = matrix_shape(want, want->k * f->bits / 32, shape);
  if (p->weight->dtype != ZM_U32)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: expected uint32 codes, found %s", p->weight->name, zm_dtype_name(p->weight->dtype));
  zm_status status = check_shape(p->weight, rank, shape);
  matrix_shape(want, want->k / f->group, shape);
  if (status == ZM_OK && f->mode != ZMI_QUANT_AFFINE) {
    f->dtype = ZM_BF16;
    if (p->scales->dtype == ZM_U8) return check_shape(p->scales, rank, shape);
    return zmi_fail(ZM_ERROR_FORMAT, "%s: expected uint8 (%s), found %s", p->scales->name, zmi_quant_mode_name(f->mode),
                    zm_dtype_name(p->scales->dtype));
  }
  if (status == ZM_OK) status = check_float(p->scales);
  if (status == ZM_OK) status = check_shape(p->scales, rank, shape);
  if (status == ZM_OK && !p->biases) return missing(c, want->name, ".biases");
  if (status == ZM_OK) status = check_shape(p->biases, rank, shape);
  if (status == ZM_OK && p->biases->dtype != p->scales->dtype)
    status = zmi_fail(ZM_ERROR_FORMAT, "%s: expected %s like the scales, found %s", p->biases->name, zm_dtype_name(p->scales->dtype),
                      zm_dtype_name(p->biases->dtype));
  f->dtype = p->scales->dtype == ZM_BF16 ? ZM_BF16 : ZM_F32;
  return status;
}

static zm_status dense_format(const zmi_want *want, const parts *p, zmi_format *f) {
  int64_t shape[3];
  zmi_want one = *want;
  if (p->loose) one.stacked = false;
  const int rank = matrix_shape(&one, want->k, shape);
  zm_status status = check_float(p->weight);
  if (status == ZM_OK) status = check_shape(p->weight, rank, shape);
  *f = (zmi_format){.mode = ZMI_QUANT_NONE, .dtype = p->weight->dtype == ZM_BF16 ? ZM_BF16 : ZM_F32};
  return status;
}

// Finds and checks the tensors of a matrix.
static zm_status find_parts(zmi_checkpoint *c, const zmi_want *want, parts *p, zmi_format *format) {
  *p = (parts){.weight = find(c, "%s.weight", want->name), .scales = find(c, "%s.scales", want->name)};
  if (!p->weight && want->stacked) {
    p->weight = loose_expert(c, want->name, 0);
    p->loose = p->weight != NULL;
  }
  if (!p->weight) return missing(c, want->name, ".weight");
  if (p->loose && p->scales) // the shape of expert 0 says nothing of the others' codes then
    return zmi_fail(ZM_ERROR_FORMAT, "%s: the checkpoint has scales for all experts together, but %s stands alone: convert it again",
                    want->name, p->weight->name);
  const zmi_override *override = zmi_config_override(c->config, want->name);
  if (override && override->quantized && !p->scales) return missing(c, want->name, ".scales");
  if (override && !override->quantized && p->scales)
    return zmi_fail(ZM_ERROR_FORMAT, "%s: config.json says that it is not quantized, but the checkpoint has scales for it", want->name);
  if (p->scales) p->biases = find(c, "%s.biases", want->name);
  zm_status status = p->scales ? quantized_format(c, want, p, format) : dense_format(want, p, format);
  for (int64_t e = 1; status == ZM_OK && p->loose && e < want->experts; e++) {
    const zmi_tensor *t = loose_expert(c, want->name, e);
    if (!t) return missing(c, want->name, ": an expert");
    if (t->dtype != p->weight->dtype)
      return zmi_fail(ZM_ERROR_FORMAT, "%s: expected %s like expert 0, found %s", t->name, zm_dtype_name(p->weight->dtype),
                      zm_dtype_name(t->dtype));
    status = check_shape(t, 2, p->weight->shape);
  }
  if (status != ZM_OK || !want->bias) return status;
  p->bias = find(c, "%s.bias", want->name);
  if (!p->bias) return missing(c, want->name, ".bias");
  status = check_float(p->bias);
  return status == ZM_OK ? check_shape(p->bias, 1, &want->n) : status;
}

// ---- packing ----

typedef struct packing {
  zmi_format format;
  zmi_stored_matrix first;                      // expert 0
  const zmi_tensor **loose;                     // one tensor an expert, or NULL
  size_t weight_step, scale_step, matrix_bytes; // from expert to expert
  int64_t blocks;                               // of one expert
  uint8_t *packed;
  int64_t begin, end; // blocks of the slab, counted over all experts
  atomic_llong bad;   // first expert with scales that are not finite; INT64_MAX: none
} packing;

static zmi_stored_matrix expert_matrix(const packing *p, int64_t e) {
  zmi_stored_matrix m = p->first;
  if (p->loose)
    m.weight = p->loose[e]->data;
  else
    m.weight = (const uint8_t *)m.weight + (size_t)e * p->weight_step;
  if (m.scales) m.scales = (const uint8_t *)m.scales + (size_t)e * p->scale_step;
  if (m.biases) m.biases = (const uint8_t *)m.biases + (size_t)e * p->scale_step;
  return m;
}

// Rows of blocks [begin, end) of a matrix, as a matrix of their own.
static zmi_stored_matrix part_matrix(const packing *p, const zmi_stored_matrix *m, int64_t begin, int64_t end) {
  zmi_stored_matrix part = *m;
  const size_t row = (size_t)(begin * ZMI_LANES);
  const size_t scale_row = p->scale_step / (size_t)m->n;
  part.n = ZMI_MIN(end * ZMI_LANES, m->n) - begin * ZMI_LANES;
  part.weight = (const uint8_t *)m->weight + row * (p->weight_step / (size_t)m->n);
  part.scales = (const uint8_t *)m->scales + row * scale_row;
  if (m->biases) part.biases = (const uint8_t *)m->biases + row * scale_row;
  return part;
}

static void pack_share(void *user, int worker, int workers) {
  packing *p = user;
  const int64_t count = p->end - p->begin;
  int64_t at = p->begin + count * worker / workers;
  const int64_t end = p->begin + count * (worker + 1) / workers;
  while (at < end) {
    const int64_t e = at / p->blocks, first = at % p->blocks, last = ZMI_MIN(p->blocks, first + end - at);
    const zmi_stored_matrix m = expert_matrix(p, e);
    if (m.scales) {
      const zmi_stored_matrix part = part_matrix(p, &m, first, last);
      if (zmi_stored_matrix_check(&p->format, &part) != ZM_OK) {
        long long seen = atomic_load(&p->bad);
        while (e < seen && !atomic_compare_exchange_weak(&p->bad, &seen, e)) continue;
      }
    }
    zmi_pack_blocks(&p->format, &m, p->packed + (size_t)e * p->matrix_bytes, first, last);
    at += last - first;
  }
}

// Lets go of the pages that blocks [begin, end) of a stacked tensor were read from.
static void drop_part(const zmi_checkpoint *c, const zmi_tensor *t, int64_t begin, int64_t end, int64_t total) {
  zmi_tensor part = *t;
  const size_t unit = t->bytes / (size_t)total;
  part.data += unit * (size_t)begin;
  part.bytes = unit * (size_t)(end - begin);
  zmi_tensors_drop(c->tensors, &part);
}

static zm_status report(zmi_checkpoint *c, uint64_t bytes) {
  c->done += bytes;
  if (!c->progress || c->progress(c->progress_user, "loading weights", ZMI_MIN(c->done, c->bytes), c->bytes)) return ZM_OK;
  return zmi_fail(ZM_ERROR_CANCELLED, "loading was cancelled");
}

static zm_status pack_slabs(zmi_checkpoint *c, const zmi_want *want, const parts *p, packing *job) {
  const int64_t total = job->blocks * want->experts;
  const uint64_t source = p->loose ? p->weight->bytes * (uint64_t)want->experts : p->weight->bytes;
  const int64_t step = ZMI_MAX((int64_t)((double)total * ZMI_SLAB_BYTES / (double)source), 1);
  for (job->begin = 0; job->begin < total; job->begin = job->end) {
    job->end = ZMI_MIN(job->begin + step, total);
    zmi_pool_run(c->pool, pack_share, job);
    const int64_t bad = atomic_load(&job->bad);
    if (bad != INT64_MAX) {
      const zmi_stored_matrix m = expert_matrix(job, bad);
      zm_status status = zmi_stored_matrix_check(&job->format, &m);
      if (status != ZM_OK && want->stacked) return zmi_fail_within("%s, expert %lld", want->name, (long long)bad);
      return status != ZM_OK ? zmi_fail_within("%s", want->name) : zmi_fail(ZM_ERROR_FORMAT, "%s: scales are not finite", want->name);
    }
    if (!p->loose)
      drop_part(c, p->weight, job->begin, job->end, total);
    else
      for (int64_t e = job->begin / job->blocks; e < job->end / job->blocks; e++) zmi_tensors_drop(c->tensors, job->loose[e]);
    zm_status status = report(c, (uint64_t)((double)source * (double)(job->end - job->begin) / (double)total));
    if (status != ZM_OK) return status;
  }
  if (p->scales) zmi_tensors_drop(c->tensors, p->scales);
  if (p->biases) zmi_tensors_drop(c->tensors, p->biases);
  return report(c, (p->scales ? p->scales->bytes : 0) + (p->biases ? p->biases->bytes : 0));
}

static zm_status pack(zmi_checkpoint *c, const zmi_want *want, const parts *p, zmi_store_entry *entry) {
  packing job = {.format = entry->held.format, .blocks = (want->n + ZMI_LANES - 1) / ZMI_LANES};
  atomic_init(&job.bad, INT64_MAX);
  const size_t experts = (size_t)want->experts;
  job.first = (zmi_stored_matrix){.weight = p->weight->data, .n = want->n, .k = want->k, .stored = p->weight->dtype};
  if (p->scales) {
    job.first.scales = p->scales->data;
    if (p->biases) job.first.biases = p->biases->data;
    job.first.stored = p->scales->dtype;
    job.scale_step = p->scales->bytes / experts;
  }
  job.weight_step = p->weight->bytes / experts;
  job.matrix_bytes = entry->held.bytes / experts;
  job.packed = store_alloc(c->store, entry->held.bytes);
  if (!job.packed) return zmi_fail_within("%s", want->name);
  entry->packed = job.packed;
  entry->held.packed = job.packed;
  if (p->loose) {
    job.loose = zmi_calloc(experts, sizeof *job.loose);
    if (!job.loose) return ZM_ERROR_MEMORY;
    for (size_t e = 0; e < experts; e++) job.loose[e] = loose_expert(c, want->name, (int64_t)e);
  }
  zm_status status = pack_slabs(c, want, p, &job);
  zmi_free(job.loose);
  return status;
}

// A copy of a small float tensor, as stored or widened to float32. Values that are not finite are refused.
static zm_status copy_floats(zmi_checkpoint *c, const zmi_tensor *t, zm_dtype dtype, void **data, size_t *bytes) {
  const size_t count = t->bytes / zm_dtype_size(t->dtype);
  *bytes = count * zm_dtype_size(dtype);
  *data = store_alloc(c->store, *bytes);
  if (!*data) return zmi_fail_within("%s", t->name);
  for (size_t i = 0; i < count; i++) {
    float value;
    uint16_t half = 0;
    if (t->dtype == ZM_F32)
      memcpy(&value, t->data + i * 4, 4);
    else {
      memcpy(&half, t->data + i * 2, 2);
      value = t->dtype == ZM_BF16 ? zmi_bf16_to_f32(half) : zmi_f16_to_f32(half);
    }
    if (!(value - value == 0)) return zmi_fail(ZM_ERROR_FORMAT, "%s: element %zu is not a finite number", t->name, i);
    if (dtype == ZM_F32)
      memcpy((uint8_t *)*data + i * 4, &value, 4);
    else
      memcpy((uint8_t *)*data + i * 2, &half, 2);
  }
  zmi_tensors_drop(c->tensors, t);
  return report(c, t->bytes);
}

static zm_status give_to_gpu(const zmi_checkpoint *c, const zmi_want *want, const zmi_store_entry *entry) {
  zmi_gpu_address at;
  if (zmi_device_resident(c->gpu, entry->packed, entry->held.bytes, &at) != ZM_OK) return zmi_fail_within("%s", want->name);
  zmi_block_forget(entry->packed, entry->held.bytes);
  return ZM_OK;
}

bool zmi_held_bytes(const zmi_want *want, zmi_held *held) {
  size_t one;
  return zmi_packed_bytes(&held->format, want->n, want->k, &one) && !zmi_mul_overflow(one, (size_t)want->experts, &held->bytes) &&
         held->bytes <= INT64_MAX;
}

static zm_status checkpoint_matrix(void *self, const zmi_want *want, zmi_held *held) {
  zmi_checkpoint *c = self;
  const zmi_store_entry *known = c->store ? store_find(c->store, want->name) : NULL;
  if (known) {
    *held = known->held;
    return ZM_OK;
  }
  parts p;
  zm_status status = find_parts(c, want, &p, &held->format);
  if (status != ZM_OK) return status;
  if (!zmi_held_bytes(want, held)) return zmi_fail(ZM_ERROR_FORMAT, "%s: too large", want->name);
  if (p.bias) held->bias_dtype = p.bias->dtype;
  if (!c->store) return ZM_OK;
  zmi_store_entry *entry = store_add(c->store, want->name);
  if (!entry) return ZM_ERROR_MEMORY;
  entry->held = *held;
  status = pack(c, want, &p, entry);
  if (status == ZM_OK && c->gpu) status = give_to_gpu(c, want, entry);
  if (status == ZM_OK && p.bias) status = copy_floats(c, p.bias, p.bias->dtype, &entry->bias, &entry->bias_bytes);
  entry->held.bias = entry->bias;
  *held = entry->held;
  return status;
}

// [d, taps, 1] and [d, 1, taps] of a convolution are both [d, taps].
static bool same_but_ones(const zmi_tensor *t, const zmi_want *want) {
  int at = 0;
  for (int i = 0; i < t->rank; i++) {
    if (at < want->rank && t->shape[i] == want->shape[at])
      at++;
    else if (t->shape[i] != 1)
      return false;
  }
  return at == want->rank;
}

static zm_status checkpoint_vector(void *self, const zmi_want *want, zmi_held *held) {
  zmi_checkpoint *c = self;
  const zmi_store_entry *known = c->store ? store_find(c->store, want->name) : NULL;
  if (known) {
    *held = known->held;
    return ZM_OK;
  }
  const zmi_tensor *t = find(c, "%s", want->name);
  if (!t) return missing(c, want->name, "");
  zm_status status = check_float(t);
  if (status == ZM_OK && !same_but_ones(t, want)) status = check_shape(t, want->rank, want->shape);
  if (status != ZM_OK) return status;
  held->dtype = want->dtype ? want->dtype : t->dtype;
  held->bytes = t->bytes / zm_dtype_size(t->dtype) * zm_dtype_size(held->dtype);
  if (!c->store) return ZM_OK;
  zmi_store_entry *entry = store_add(c->store, want->name);
  if (!entry) return ZM_ERROR_MEMORY;
  status = copy_floats(c, t, held->dtype, &entry->data, &entry->data_bytes);
  entry->held = *held;
  entry->held.data = entry->data;
  *held = entry->held;
  return status;
}

zmi_source zmi_checkpoint_source(zmi_checkpoint *c) {
  return (zmi_source){.self = c, .matrix = checkpoint_matrix, .vector = checkpoint_vector};
}

// ---- a configuration alone ----

// As mlx-lm quantizes: every matrix whose rows divide into groups.
void zmi_blueprint_format(const zmi_config *config, const zmi_want *want, zmi_format *format) {
  const zmi_override *override = zmi_config_override(config, want->name);
  const zm_dtype dtype = config->stored == ZM_BF16 ? ZM_BF16 : ZM_F32;
  *format = override ? override->format : config->format;
  const bool quantized = override ? override->quantized : config->quantized && want->k % format->group == 0;
  if (!quantized) *format = (zmi_format){.mode = ZMI_QUANT_NONE};
  format->dtype = dtype;
}

static zm_status blueprint_matrix(void *self, const zmi_want *want, zmi_held *held) {
  const zmi_config *config = self;
  zmi_blueprint_format(config, want, &held->format);
  if (held->format.mode != ZMI_QUANT_NONE && want->k % held->format.group != 0)
    return zmi_fail(ZM_ERROR_FORMAT, "config.json: %s: rows of %lld values do not divide into quantization groups of %lld", want->name,
                    (long long)want->k, (long long)held->format.group);
  held->bias_dtype = config->stored;
  return zmi_held_bytes(want, held) ? ZM_OK : zmi_fail(ZM_ERROR_FORMAT, "config.json: %s: too large", want->name);
}

static zm_status blueprint_vector(void *self, const zmi_want *want, zmi_held *held) {
  const zmi_config *config = self;
  held->dtype = want->dtype ? want->dtype : config->stored;
  held->bytes = zm_dtype_size(held->dtype);
  for (int i = 0; i < want->rank; i++)
    if (zmi_mul_overflow(held->bytes, (size_t)want->shape[i], &held->bytes))
      return zmi_fail(ZM_ERROR_FORMAT, "config.json: %s: too large", want->name);
  return ZM_OK;
}

zmi_source zmi_blueprint_source(const zmi_config *config) {
  return (zmi_source){.self = (void *)(uintptr_t)config, .matrix = blueprint_matrix, .vector = blueprint_vector};
}
