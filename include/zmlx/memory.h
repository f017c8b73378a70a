// Memory of arrays. What evaluations compute lies in buffers; buffers that are given back are kept for the next one, up to a limit, as
// fresh memory costs more than computing with it. Models and sessions keep memory of their own, which is not counted here.
//
// Threads: all of these may be called from any thread.
#ifndef ZMLX_MEMORY_H
#define ZMLX_MEMORY_H

#include <stdint.h>
#include <zmlx/status.h>

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of buffers in use, the most there were at a time, and bytes kept for reuse.
ZM_API uint64_t zm_memory_active(void);
ZM_API uint64_t zm_memory_peak(void);
ZM_API uint64_t zm_memory_cache(void);
// From now on the peak counts anew.
ZM_API void zm_memory_reset_peak(void);

// The most bytes in use at a time; what would be more fails with ZM_ERROR_MEMORY. 0: no limit (so it is at first). The old limit.
ZM_API uint64_t zm_memory_set_limit(uint64_t bytes);
// The most bytes kept for reuse; 0 keeps none. At first a quarter of the memory that could be had at the first evaluation. The old limit.
ZM_API uint64_t zm_memory_set_cache_limit(uint64_t bytes);
// Gives everything that is kept for reuse back to the system.
ZM_API void zm_memory_clear_cache(void);

#ifdef __cplusplus
}
#endif
#endif
