// ZMLX: MLX checkpoints on the CPU (and later on GPUs), patched with fused kernels that keep every bit. Includes the whole public API.
#ifndef ZMLX_ZMLX_H
#define ZMLX_ZMLX_H

#include <zmlx/array.h>
#include <zmlx/catalog.h>
#include <zmlx/elementwise.h>
#include <zmlx/io.h>
#include <zmlx/kernel.h>
#include <zmlx/kvtc.h>
#include <zmlx/linear.h>
#include <zmlx/memory.h>
#include <zmlx/model.h>
#include <zmlx/ops.h>
#include <zmlx/quantized.h>
#include <zmlx/random.h>
#include <zmlx/status.h>
#include <zmlx/testing.h>
#include <zmlx/tokenizer.h>
#include <zmlx/transform.h>

#endif
