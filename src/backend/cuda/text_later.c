#include "backend/cuda/cuda.h"
const char zmi_gpu_text[] = "";
