// What the imitated driver says of its errors.
#include "backend/cuda/driver.h"

#define FAKE_API __attribute__((visibility("default")))
FAKE_API cu_result fake_error_name(cu_result result, const char **name) __asm__("cuGetErrorName");
FAKE_API cu_result fake_error_text(cu_result result, const char **text) __asm__("cuGetErrorString");

enum { INVALID_VALUE = 1, TOO_MUCH = 304 };

static const struct {
  cu_result result;
  const char *name, *text;
} words[] = {{CU_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
             {CU_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
             {CU_SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
             {CU_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
             {TOO_MUCH, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
             {CU_UNKNOWN, "CUDA_ERROR_UNKNOWN", "unknown error"},
             {CU_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"}};

cu_result fake_error_name(cu_result result, const char **name) {
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (words[i].result == result) return *name = words[i].name, 0;
  }
  return *name = NULL, INVALID_VALUE;
}

cu_result fake_error_text(cu_result result, const char **text) {
  for (size_t i = 0; i < ZMI_COUNT(words); i++) {
    if (words[i].result == result) return *text = words[i].text, 0;
  }
  return *text = NULL, INVALID_VALUE;
}
