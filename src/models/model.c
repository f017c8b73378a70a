// Opening and closing models, their facts, and the programs that sessions play.
#include "models/model.h"
#include "models/family.h"

#include <stdio.h>
#include <string.h>

// ---- steps ----

static zm_status rewrite(void *user, zmi_graph *graph) {
  const zmi_step *step = user;
  zm_status status = ZM_OK;
  if (step->patterns & ZMI_PATTERNS_OWN) status = zmi_own_patterns_apply(step->own, step->own_count, graph, step->report);
  return status == ZM_OK ? zmi_patterns_apply(step->patterns, graph, step->report) : status;
}

static void prepare(zmi_step *s, zmi_state_set *states, bool list) {
  s->build = (zmi_build){
      .config = s->config,
      .source = &s->source,
      .inv_freq = s->inv_freq,
      .dtype = s->dtype,
      .activations = s->activations,
      .rows = s->rows,
      .selected = s->selected,
      .sequences = list ? s->sequences : states->sequences,
      .context = list ? s->context : states->context,
      .states = states,
      .list_states = list,
  };
}

zmi_program *zmi_step_compile(zmi_step *s) {
  zm_scope *scope = zm_scope_open();
  if (!scope) return NULL;
  zmi_state_set listed = {0};
  // Binding reads the set only.
  zmi_state_set *states = s->states ? (zmi_state_set *)(uintptr_t)s->states : &listed;
  prepare(s, states, !s->states);
  zm_array *out = zmi_build_graph(&s->build);
  const char *name = s->selected > 0 ? "logits" : "hidden";
  const zmi_compile_options options = {
      .kernels = s->kernels, .rewrite = rewrite, .user = s, .gpu = s->gpu, .executor = s->executor, .plan_only = s->plan_only};
  zmi_program *program = out ? zmi_compile(&out, &name, 1, &options) : NULL;
  zm_scope_close(scope);
  zmi_state_set_release(&listed);
  return program;
}

zm_status zmi_step_visit(zmi_step *s, zmi_state_set *states) {
  zm_scope *scope = zm_scope_open();
  if (!scope) return ZM_ERROR_MEMORY;
  zmi_state_set listed = {0};
  s->rows = s->selected = 1;
  prepare(s, states ? states : &listed, true);
  const bool built = zmi_build_graph(&s->build) != NULL;
  zm_scope_close(scope);
  zmi_state_set_release(&listed);
  return built ? ZM_OK : zm_last_status();
}

int32_t zmi_round_context(int32_t context) {
  return (int32_t)(((int64_t)context + ZMI_KEY_BLOCK - 1) / ZMI_KEY_BLOCK * ZMI_KEY_BLOCK);
}

// Activations are computed in bfloat16 or float32. A float16 checkpoint is computed in float32, which holds all of its values.
zm_dtype zmi_choose_dtype(zm_dtype asked, zm_dtype stored) {
  if (asked == ZM_DTYPE_DEFAULT) return stored == ZM_BF16 ? ZM_BF16 : ZM_F32;
  if (asked == ZM_F32 || asked == ZM_BF16) return asked;
  zmi_fail(ZM_ERROR_ARGUMENT, "models compute in bfloat16 or float32, not in %s", zm_dtype_name(asked));
  return ZM_DTYPE_DEFAULT;
}

// ---- opening ----

static zmi_step model_step(zm_model *m) {
  return (zmi_step){.config = &m->config,
                    .source = zmi_store_source(&m->store),
                    .inv_freq = m->inv_freq,
                    .dtype = m->dtype,
                    .activations = m->activations,
                    .sequences = 1,
                    .context = ZMI_KEY_BLOCK,
                    .kernels = m->kernels,
                    .gpu = m->gpu,
                    .executor = m->executor,
                    .own = m->own,
                    .own_count = m->own_count};
}

// Checks the whole checkpoint and the memory it will need, then loads it.
static zm_status load(zm_model *m, const zm_model_options *o, zmi_checkpoint *c) {
  zmi_source source = zmi_checkpoint_source(c);
  const zmi_model_plan_request request = {.context = o->context};
  zm_status status = zmi_plan(&m->config, &source, c->bytes, m->kernels, &request, m->dtype, &m->plan);
  if (status == ZM_OK) status = zmi_checkpoint_all_used(c);
  // On a GPU weights do not stay in memory of the host.
  if (status == ZM_OK && m->gpu) status = zmi_device_fits(m->gpu, m->plan.weight_bytes, "the weights");
  if (status == ZM_OK && (!m->gpu || o->memory_limit)) status = zmi_model_plan_check(&m->plan, o->memory_limit);
  if (status != ZM_OK) return status;
  c->store = &m->store;
  c->gpu = m->gpu;
  c->pool = m->pool;
  c->progress = o->progress;
  c->progress_user = o->progress_user;
  zmi_step step = model_step(m);
  step.source = source;
  return zmi_step_visit(&step, NULL);
}

static zm_status open_model(zm_model *m, const char *path, const zm_model_options *o) {
  if (!(m->path = zmi_strdup(path))) return ZM_ERROR_MEMORY;
  if (!zmi_path_is_folder(path)) return zmi_fail(ZM_ERROR_FILE, "%s: no such folder (a checkpoint is a folder with config.json)", path);
  if (pthread_mutex_init(&m->lock, NULL) != 0) return zmi_fail(ZM_ERROR_MEMORY, "a mutex could not be made");
  m->lock_made = true;
  zm_status status = zmi_config_read(path, &m->config);
  if (status != ZM_OK) return status;
  zmi_config_quantization(&m->config, m->quantization);
  m->inv_freq = zmi_calloc((size_t)m->config.head_dim / 2, sizeof *m->inv_freq);
  m->kernels = zmi_kernels_find(o->isa);
  m->pool = m->kernels && m->inv_freq ? zmi_pool_new(o->threads) : NULL;
  if (!m->pool) return zm_last_status();
  if (o->device == ZM_MODEL_CUDA && !(m->gpu = zmi_device_open(o->progress, o->progress_user))) return zm_last_status();
  zmi_config_inv_freq(&m->config, m->inv_freq);
  zmi_checkpoint c;
  status = zmi_checkpoint_open(path, &m->config, &c);
  if (status == ZM_OK) {
    m->dtype = zmi_choose_dtype(o->dtype, c.dtype);
    status = m->dtype ? load(m, o, &c) : zm_last_status();
  }
  zmi_checkpoint_close(&c);
  if (status == ZM_OK || strncmp(zm_last_error(), path, strlen(path)) == 0) return status; // files name themselves
  return zmi_fail_within("%s", path);
}

zm_model *zm_model_open(const char *path, const zm_model_options *options) {
  static const zm_model_options none;
  if (!options) options = &none;
  if (!path || !*path) return zmi_fail(ZM_ERROR_ARGUMENT, "no path of a checkpoint folder was given"), NULL;
  if (options->threads < 0) return zmi_fail(ZM_ERROR_ARGUMENT, "threads must not be negative, found %d", options->threads), NULL;
  if (options->activations != ZM_ACTIVATIONS_EXACT && options->activations != ZM_ACTIVATIONS_INT8) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "activations: %d is neither ZM_ACTIVATIONS_EXACT nor ZM_ACTIVATIONS_INT8",
                    (int)options->activations),
           NULL;
  }
  if (options->device != ZM_MODEL_CPU && options->device != ZM_MODEL_CUDA)
    return zmi_fail(ZM_ERROR_ARGUMENT, "device: %d is neither ZM_MODEL_CPU nor ZM_MODEL_CUDA", (int)options->device), NULL;
  if ((int)options->executor < 0 || (int)options->executor >= ZMI_EXECUTOR_COUNT)
    return zmi_fail(ZM_ERROR_ARGUMENT, "executor: %d is none of " ZMI_EXECUTOR_NAMES, (int)options->executor), NULL;
  if (options->executor != ZM_EXECUTOR_AUTO && options->device == ZM_MODEL_CPU) {
    return zmi_fail(ZM_ERROR_ARGUMENT, "executor %s plays on a GPU only: ask for the device cuda too, or for no executor",
                    zmi_executor_name((zmi_executor)options->executor)),
           NULL;
  }
  const double start = zmi_now();
  zm_model *m = zmi_calloc(1, sizeof *m);
  if (!m) return NULL;
  _Static_assert((int)ZM_EXECUTOR_PERSISTENT == (int)ZMI_EXECUTOR_PERSISTENT, "one list of executors, public and internal");
  m->executor = (zmi_executor)options->executor;
  m->activations = options->activations;
  const bool open = open_model(m, path, options) == ZM_OK;
  m->load_seconds = zmi_now() - start;
  if (open) return m;
  zm_model_close(m);
  return NULL;
}

static void release_own(zm_own_pattern *own, size_t count) {
  for (size_t i = 0; own && i < count; i++) zmi_free((char *)(uintptr_t)own[i].name);
  zmi_free(own);
}

void zm_model_close(zm_model *m) {
  if (!m) return;
  if (m->text && m->release_text) m->release_text(m->text);
  release_own(m->own, m->own_count);
  zmi_device_close(m->gpu);
  zmi_store_release(&m->store);
  zmi_pool_free(m->pool);
  zmi_config_release(&m->config);
  zmi_free(m->inv_freq);
  zmi_free(m->path);
  if (m->lock_made) pthread_mutex_destroy(&m->lock);
  zmi_free(m);
}

// ---- facts ----

void zm_model_get_info(const zm_model *m, zm_model_info *info) {
  if (info && !m) *info = (zm_model_info){0};
  if (!info || !m) return;
  const zmi_config *c = &m->config;
  *info = (zm_model_info){
      .family = c->family->name,
      .path = m->path,
      .quantization = m->quantization,
      .dtype = m->dtype,
      .activations = m->activations,
      .device = m->gpu ? ZM_MODEL_CUDA : ZM_MODEL_CPU,
      .layers = c->layers,
      .hidden = c->hidden,
      .vocab = c->vocab,
      .context = c->context,
      .file_bytes = m->plan.file_bytes,
      .weight_bytes = m->plan.weight_bytes,
      .bytes_per_token = m->plan.bytes_per_token,
      .cache_bytes_per_token = m->plan.cache_bytes_per_token,
      .threads = zmi_pool_workers(m->pool),
      .isa = m->kernels->name,
      .load_seconds = m->load_seconds,
  };
}

size_t zm_model_eos(const zm_model *m, const int32_t **ids) {
  if (ids) *ids = m ? m->config.eos : NULL;
  return m ? m->config.eos_count : 0;
}

zmi_pool *zmi_model_pool(const zm_model *m) {
  return m->pool;
}

const zmi_kernels *zmi_model_kernels(const zm_model *m) {
  return m->kernels;
}

const zmi_model_plan *zmi_model_plan_of(const zm_model *m) {
  return &m->plan;
}

zmi_cuda *zmi_model_gpu(const zm_model *m) {
  return m->gpu;
}

const char *zmi_model_executor(const zm_model *m) {
  return zmi_executor_name(m->executor);
}

zm_dtype zmi_model_dtype(const zm_model *m) {
  return m->dtype;
}

int32_t zmi_model_vocab(const zm_model *m) {
  return m->config.vocab;
}

int32_t zmi_model_context(const zm_model *m) {
  return m->config.context;
}

const char *zmi_model_path(const zm_model *m) {
  return m->path;
}

void **zmi_model_text(zm_model *m, void (*release)(void *)) {
  m->release_text = release;
  return &m->text;
}

void zmi_model_lock(zm_model *m) {
  pthread_mutex_lock(&m->lock);
}

void zmi_model_unlock(zm_model *m) {
  pthread_mutex_unlock(&m->lock);
}

// ---- states and programs ----

zm_status zmi_model_states(zm_model *m, int32_t sequences, int32_t context, zmi_state_set *set) {
  *set = (zmi_state_set){0};
  if (sequences < 1 || context < 1 || context > INT32_MAX - ZMI_KEY_BLOCK)
    return zmi_fail(ZM_ERROR_ARGUMENT, "a session needs at least one sequence and one position, found %d and %d", sequences, context);
  zmi_step step = model_step(m);
  step.sequences = sequences;
  step.context = zmi_round_context(context);
  zm_status status = zmi_step_visit(&step, set);
  set->sequences = sequences;
  set->context = step.context;
  if (status != ZM_OK) zmi_state_set_release(set);
  return status;
}

void zmi_state_set_release(zmi_state_set *set) {
  zmi_free(set->slots);
  *set = (zmi_state_set){0};
}

bool zmi_state_set_bytes(const zmi_state_set *set, size_t *bytes) {
  *bytes = 0;
  for (size_t i = 0; i < set->count; i++) {
    size_t one;
    if (!zmi_type_bytes(&set->slots[i].type, &one) || zmi_add_overflow(one, 63, &one)) return false;
    if (zmi_add_overflow(*bytes, one / 64 * 64, bytes)) return false;
  }
  return true;
}

zmi_program *zmi_model_compile(zm_model *m, int32_t rows, int32_t selected, const zmi_state_set *states,
                               const zmi_model_program_options *options) {
  static const zmi_model_program_options none;
  if (!options) options = &none;
  if (rows < 1 || selected < 0 || selected > rows) {
    zmi_fail(ZM_ERROR_ARGUMENT, "a step of %d rows cannot give logits of %d", rows, selected);
    return NULL;
  }
  if (!states && !options->plan_only) return zmi_fail(ZM_ERROR_ARGUMENT, "a program that is to be played needs states"), NULL;
  zmi_step step = model_step(m);
  step.context = zmi_round_context(ZMI_MIN(4096, m->config.context));
  step.rows = rows;
  step.selected = selected;
  step.states = states;
  step.patterns = options->stock ? 0 : m->patterns;
  step.report = options->report;
  step.plan_only = options->plan_only;
  return zmi_step_compile(&step);
}

// ---- patterns ----

zmi_patterns zmi_model_patterns(const zm_model *m) {
  return m->patterns;
}

uint64_t zmi_model_own_version(const zm_model *m) {
  return m->own_version;
}

void zmi_model_set_patterns(zm_model *m, zmi_patterns patterns) {
  zmi_model_lock(m);
  m->patterns = patterns;
  zmi_model_unlock(m);
}

// What the patterns do to the decode graph is what the report tells.
static zm_status try_patterns(zm_model *m, zmi_patterns patterns, zm_patch_report *report) {
  zmi_step step = model_step(m);
  step.context = zmi_round_context(ZMI_MIN(4096, m->config.context));
  step.rows = step.selected = 1;
  step.patterns = patterns;
  step.report = report;
  step.plan_only = true;
  zmi_model_lock(m);
  zmi_program *program = zmi_step_compile(&step);
  zmi_model_unlock(m);
  zmi_program_free(program);
  return program ? ZM_OK : zm_last_status();
}

zm_status zm_patch(zm_model *m, const zm_patch_options *options, zm_patch_report **report) {
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "no model to patch was given");
  zmi_patterns patterns;
  zm_status status = zmi_patterns_choose(options, &patterns);
  if (status != ZM_OK) return status;
  zm_patch_report *made = zmi_patch_report_new();
  if (!made) return ZM_ERROR_MEMORY;
  patterns |= m->patterns & ZMI_PATTERNS_OWN;
  status = try_patterns(m, patterns, made);
  if (status == ZM_OK) zmi_model_set_patterns(m, patterns);
  if (status == ZM_OK && report)
    *report = made;
  else
    zm_patch_report_free(made);
  return status;
}

static zm_own_pattern *copy_own(const zm_own_pattern *patterns, size_t count) {
  zm_own_pattern *own = zmi_calloc(count + 1, sizeof *own);
  for (size_t i = 0; i < count && own; i++) {
    own[i] = patterns[i];
    own[i].name = zmi_strdup(patterns[i].name ? patterns[i].name : "own");
    if (own[i].name) continue;
    release_own(own, i);
    own = NULL;
  }
  return own;
}

zm_status zm_patch_with(zm_model *m, const zm_own_pattern *patterns, size_t count, zm_patch_report **report) {
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "no model to patch was given");
  if (count > 0 && !patterns) return zmi_fail(ZM_ERROR_ARGUMENT, "%zu patterns were announced, but none are given", count);
  zm_own_pattern *own = copy_own(patterns, count), *before = m->own;
  zm_patch_report *made = own ? zmi_patch_report_new() : NULL;
  if (!made) {
    release_own(own, count);
    return ZM_ERROR_MEMORY;
  }
  const size_t count_before = m->own_count;
  const zmi_patterns chosen = (m->patterns & ~ZMI_PATTERNS_OWN) | (count > 0 ? ZMI_PATTERNS_OWN : 0);
  m->own = own;
  m->own_count = count;
  zm_status status = try_patterns(m, chosen, made);
  if (status == ZM_OK) {
    m->own_version++;
    zmi_model_set_patterns(m, chosen);
    release_own(before, count_before);
  } else {
    m->own = before;
    m->own_count = count_before;
    release_own(own, count);
  }
  if (status == ZM_OK && report)
    *report = made;
  else
    zm_patch_report_free(made);
  return status;
}

zm_status zm_unpatch(zm_model *m) {
  if (!m) return zmi_fail(ZM_ERROR_ARGUMENT, "no model to unpatch was given");
  zmi_model_set_patterns(m, 0);
  return ZM_OK;
}
