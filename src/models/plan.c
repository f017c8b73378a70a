// Memory plans: what a checkpoint will need before any of it is loaded, from the same graph description that loads it.
#include "models/model.h"
#include "models/family.h"

#include <stdio.h>

enum { DEFAULT_CONTEXT = 4096, DEFAULT_CHUNK = 128, MOST_CHUNK = 1 << 16, MOST_SEQUENCES = 1 << 16 };

static zm_status arena_of(zmi_step *step, int32_t rows, int32_t selected, uint64_t *bytes) {
  step->rows = rows;
  step->selected = selected;
  zmi_program *program = zmi_step_compile(step);
  if (!program) return zm_last_status();
  *bytes += zmi_program_tape(program)->arena_bytes;
  zmi_program_free(program);
  return ZM_OK;
}

static zm_status check_request(const zmi_config *config, zmi_model_plan_request *r) {
  if (r->context == 0) r->context = ZMI_MIN(DEFAULT_CONTEXT, config->context);
  if (r->sequences == 0) r->sequences = 1;
  if (r->chunk == 0) r->chunk = DEFAULT_CHUNK;
  if (r->context < 0 || r->context > config->context)
    return zmi_fail(ZM_ERROR_ARGUMENT, "context must be from 1 to %d (what the checkpoint was made for), found %d", config->context,
                    r->context);
  if (r->sequences < 0 || r->sequences > MOST_SEQUENCES)
    return zmi_fail(ZM_ERROR_ARGUMENT, "sequences must be from 1 to %d, found %d", MOST_SEQUENCES, r->sequences);
  if (r->chunk < 0 || r->chunk > MOST_CHUNK)
    return zmi_fail(ZM_ERROR_ARGUMENT, "chunk must be from 1 to %d, found %d", MOST_CHUNK, r->chunk);
  return ZM_OK;
}

zm_status zmi_plan(const zmi_config *config, const zmi_source *source, uint64_t file_bytes, const zmi_kernels *kernels,
                   const zmi_model_plan_request *request, zm_dtype dtype, zmi_model_plan *plan) {
  zmi_model_plan_request r = request ? *request : (zmi_model_plan_request){0};
  zm_status status = check_request(config, &r);
  if (status != ZM_OK) return status;
  *plan = (zmi_model_plan){
      .dtype = dtype,
      .layers = config->layers,
      .hidden = config->hidden,
      .vocab = config->vocab,
      .context = r.context,
      .sequences = r.sequences,
      .chunk = r.chunk,
      .model_context = config->context,
      .file_bytes = file_bytes,
  };
  snprintf(plan->family, sizeof plan->family, "%s", config->family->name);
  zmi_config_quantization(config, plan->quantization);
  zmi_state_set states = {0};
  zmi_step step = {.config = config,
                   .source = *source,
                   .dtype = dtype,
                   .sequences = r.sequences,
                   .context = zmi_round_context(r.context),
                   .kernels = kernels,
                   .plan_only = true};
  status = zmi_step_visit(&step, &states);
  size_t cache = 0;
  if (status == ZM_OK && !zmi_state_set_bytes(&states, &cache))
    status = zmi_fail(ZM_ERROR_MEMORY, "caches of %d sequences of %d positions are too large to address", r.sequences, r.context);
  plan->cache_bytes = cache;
  plan->weight_bytes = step.build.weight_bytes;
  plan->bytes_per_token = step.build.token_bytes;
  plan->products_per_token = step.build.token_products;
  plan->cache_bytes_per_token = step.build.cache_bytes_per_token;
  plan->load_bytes = file_bytes ? ZMI_MIN(step.build.largest_bytes, (uint64_t)ZMI_SLAB_BYTES) : 0;
  zmi_state_set_release(&states);
  if (status == ZM_OK) status = arena_of(&step, r.sequences, r.sequences, &plan->scratch_bytes);
  if (status == ZM_OK && r.chunk != r.sequences) status = arena_of(&step, r.chunk, 1, &plan->scratch_bytes);
  plan->total_bytes = plan->weight_bytes + ZMI_MAX(plan->load_bytes, plan->cache_bytes + plan->scratch_bytes);
  return status;
}

zm_status zmi_model_plan_path(const char *path, const zmi_model_plan_request *request, zmi_model_plan *plan) {
  zmi_config config = {0};
  zmi_checkpoint c = {0};
  if (!zmi_path_is_folder(path)) return zmi_fail(ZM_ERROR_FILE, "%s: no such folder (a checkpoint is a folder with config.json)", path);
  const zmi_kernels *kernels = zmi_kernels_find(NULL);
  zm_status status = kernels ? zmi_config_read(path, &config) : zm_last_status();
  zmi_source source = zmi_blueprint_source(&config);
  zm_dtype stored = config.stored;
  if (status == ZM_OK && zmi_checkpoint_exists(path)) {
    status = zmi_checkpoint_open(path, &config, &c);
    source = zmi_checkpoint_source(&c);
    stored = c.dtype;
  }
  if (status == ZM_OK) {
    const zm_dtype dtype = zmi_choose_dtype(request ? request->dtype : ZM_DTYPE_DEFAULT, stored);
    status = dtype ? zmi_plan(&config, &source, c.bytes, kernels, request, dtype, plan) : zm_last_status();
  }
  if (status == ZM_OK && c.tensors) status = zmi_checkpoint_all_used(&c);
  zmi_checkpoint_close(&c);
  zmi_config_release(&config);
  return status;
}

zm_status zmi_model_plan_check(const zmi_model_plan *plan, uint64_t limit) {
  const bool machine = limit == 0;
  if (machine) limit = zmi_memory_available();
  if (limit == 0 || plan->total_bytes <= limit) return ZM_OK;
  const double mb = 1e6;
  return zmi_fail(
      ZM_ERROR_MEMORY,
      "%.1f MB are needed (weights %.1f, cache %.1f for %d x %d positions, scratch %.1f), which is %.1f MB more than %s %.1f MB",
      (double)plan->total_bytes / mb, (double)plan->weight_bytes / mb, (double)plan->cache_bytes / mb, plan->sequences, plan->context,
      (double)plan->scratch_bytes / mb, (double)(plan->total_bytes - limit) / mb, machine ? "what is available here," : "the limit of",
      (double)limit / mb);
}
