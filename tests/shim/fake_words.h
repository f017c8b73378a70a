// What the imitated driver says of its results.
#ifndef ZMLX_TEST_FAKE_WORDS_H
#define ZMLX_TEST_FAKE_WORDS_H

#include "backend/cuda/driver.h"

static const struct {
  cu_result result;
  const char *name, *text;
} result_words[] = {{CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
                    {CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
                    {CU_SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
                    {CU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
                    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
                    {CU_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
                    {CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}};

// The name of a result, or its text; NULL: it is none that is known.
static inline const char *fake_word(cu_result result, bool text) {
  for (size_t i = 0; i < ZMI_COUNT(result_words); i++) {
    if (result_words[i].result == result) return text ? result_words[i].text : result_words[i].name;
  }
  return NULL;
}

#endif
