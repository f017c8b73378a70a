// Any bytes as config.json and as generation_config.json: refused with a message, or a configuration whose derived values can be computed.
#include "models/model.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zmi_config config = {0};
  if (zmi_config_parse((const char *)data, size, "fuzz/config.json", &config) == ZM_OK) {
    char name[64];
    if (config.layers <= 0 || config.hidden <= 0 || config.head_dim <= 0 || config.vocab <= 0) abort();
    if (zmi_config_quantization(&config, name)[0] == 0) abort();
    float *frequencies = malloc(sizeof(float) * (size_t)config.head_dim);
    if (frequencies != NULL) zmi_config_inv_freq(&config, frequencies);
    free(frequencies);
    if (config.layers <= 4) { // small enough to plan at the rate of a fuzzer
      zmi_model_plan plan;
      const zmi_source source = zmi_blueprint_source(&config);
      zm_status status = zmi_plan(&config, &source, 0, NULL, NULL, config.stored == ZM_BF16 ? ZM_BF16 : ZM_F32, &plan);
      if (status == ZM_OK ? plan.total_bytes == 0 : zm_last_error()[0] == 0) abort();
    }
  } else if (zm_last_status() == ZM_OK || zm_last_error()[0] == 0) {
    abort();
  }
  zmi_config_parse_generation((const char *)data, size, "fuzz/generation_config.json", &config);
  zmi_config_release(&config);
  return 0;
}
