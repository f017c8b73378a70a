// What device code may use of the machine, on a GPU; tests give the same names to a simulation on the CPU. Device code uses nothing else of
// CUDA, and functions of the prelude (zk_...) for its arithmetic.
//
//   ZMI_DEVICE           a function of the device
//   ZMI_APART            one that is not made part of its callers
//   ZMI_KERNEL           an entry; two blocks fit on a multiprocessor: at most 128 registers a thread
//   ZMI_KERNEL_ALONE     one of which one block fits: at most 255 registers a thread
//   ZMI_KERNEL_FED       the same, and a ninth warp stays with it
//   ZMI_GIVEN            before a kernel's argument that is a struct: it is read where it is, not copied
//   zmi_begin_next()     the launch behind this one may begin; zmi_wait_before() waits until the launch before this one is over and what it
//                        wrote is seen, where it may still go on (Hopper and newer, if the host asks for that)
//   zmi_cache_ahead(p)   memory that nobody writes, about to be read: asked for, not waited for
//   zmi_thread()         0 .. ZMI_GPU_THREADS - 1;   zmi_block(), zmi_blocks(): which thread block of how many
//   zmi_shared()         dynamic shared memory, 128-byte aligned
//   zmi_near(p)          p, of which the compiler is told that it is in shared memory: shorter instructions than for any address
//   zmi_sync()           the block's first eight warps are here, what they wrote is seen; zmi_sync_all() the same of all its threads
//   zmi_sync_warp()      the same of the 32 threads of a warp
//   zmi_shuffle(x, lane) x of another thread of the warp (32-bit words); all 32 take part
//   zmi_most(x)          the largest of the 32 threads' words; all of them take part
//   zmi_dot_us, zmi_dot_ss(a, b, c)  c + the sum of four products of bytes; a unsigned or signed, b signed
//   zmi_tile_us, zmi_tile_ss(d, a, b)  all 32 threads: d += A B, A 16 x 32 bytes, unsigned or signed, B 32 x 8 signed bytes. Lane l has
//                        of A rows l / 4 (words 0, 2) and l / 4 + 8 (1, 3), bytes 4 (l % 4) .. and 16 more; of B column l / 4, the same
//                        bytes; of d rows l / 4 (0, 1) and l / 4 + 8 (2, 3), columns 2 (l % 4) and the next
//   zmi_nearest(x)       the whole number that is nearest, of two the even one; |x| < 2^31. Of a NaN 0
//   zmi_larger(a, b)     the larger of |a| and |b|, NaN if one is; of denormals perhaps 0
//   zmi_pair_bf16(low, high)  both as bfloat16 in a word, to nearest even; a NaN is any of them
//   zmi_bytes(a, b, which)  a word of four bytes of a (0 .. 3) and b (4 .. 7), the lowest first: four bits of `which` for each
//   zmi_add_double, zmi_multiply_double, zmi_fma_double   rounded once, never contracted
//   zmi_pause()          a moment, while waiting for another block
//   zmi_add_atomic(p, n) the word at p before n was added, seen by all blocks
//   zmi_add_atomic_wide(p, n) adds to 8 bytes, seen by all blocks; zmi_multiply_high(a, b) the upper half of a product of 64 bits each
//   zmi_fence()          what this thread wrote is seen by all blocks before what it writes next, and it sees what they did so
//   zmi_nanoseconds()    of a clock that all blocks share
//   zmi_arrive(p)        adds 1 to the word at p; what the block wrote before is seen by those who look at p later
//   zmi_look(p)          the word at p; what others wrote before they arrived is seen after it
//   zmi_look_host(p)     the word at p, in memory of the host, as it is now; zmi_tell_host(p, x) writes eight bytes there, at once
//   zmi_copy_async(to, from)  16 bytes of memory that nobody writes on their way to shared memory; zmi_copy_commit() ends a group of them,
//   zmi_copy_word_async(to, from)  the same of 4 bytes
//   zmi_copy_wait(n)     waits until at most n groups (0 .. 3) of this thread are on their way
//   zmi_bulk_open(gate)  one thread: a gate, 8 bytes of shared memory, before its first use; zmi_bulk_opened() after it
//   zmi_bulk_copy(to, from, bytes, gate)  all 32 threads of a warp: a multiple of 16 bytes of memory that nobody writes on their way to
//                        shared memory, without holding up the warp; zmi_bulk_asked(gate) behind the last one that comes through a gate
//   zmi_bulk_wait(gate, turn)  waits until they have come: for the first, third, ... time through it (turn 0), or the second, ... (1)
//   zmi_gate_open(gate, n)  one thread: a gate that opens at each n arrivals, before its first use; zmi_gate_arrive(gate, n): so many of
//                        them
//   zmi_gate_passed(gate, turn)  whether they have gone, and what they did before is over: turn as above
//   zmi_clock()          cycles of this multiprocessor
//   zmi_cache_load(p)    a 32-bit word that another block may have written during this launch (past the first-level cache)
#ifndef ZMI_GPU_MACHINE_H
#define ZMI_GPU_MACHINE_H

#define ZMI_DEVICE static __device__
#define ZMI_INLINE static __device__ __forceinline__
#define ZMI_APART static __device__ __noinline__
#define ZMI_KERNEL extern "C" __global__ void __launch_bounds__(256, 2)
#define ZMI_KERNEL_ALONE extern "C" __global__ void __launch_bounds__(256, 1)
#define ZMI_KERNEL_FED extern "C" __global__ void __launch_bounds__(288, 1)

#define ZMI_GIVEN __grid_constant__

extern __shared__ __align__(128) char zmi_shared_memory[];
ZMI_INLINE char *zmi_shared() {
  return zmi_shared_memory;
}
ZMI_INLINE int zmi_thread() {
  return (int)threadIdx.x;
}
ZMI_INLINE int zmi_block() {
  return (int)blockIdx.x;
}
ZMI_INLINE int zmi_blocks() {
  return (int)gridDim.x;
}
#if __CUDA_ARCH__ >= 900
ZMI_INLINE void zmi_begin_next() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
ZMI_INLINE void zmi_wait_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
#else
ZMI_INLINE void zmi_begin_next() {
}
ZMI_INLINE void zmi_wait_before() {
}
#endif
ZMI_INLINE void zmi_cache_ahead(const void *p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
}
template <typename T> ZMI_INLINE T *zmi_near(T *p) {
  const unsigned offset = (unsigned)__cvta_generic_to_shared(p) - (unsigned)__cvta_generic_to_shared(zmi_shared_memory);
  return (T *)(void *)(zmi_shared_memory + offset);
}
ZMI_INLINE void zmi_sync() {
  asm volatile("barrier.sync.aligned 1, 256;" ::: "memory");
}
ZMI_INLINE void zmi_sync_all() {
  __syncthreads();
}
ZMI_INLINE void zmi_sync_warp() {
  __syncwarp();
}
ZMI_INLINE unsigned zmi_shuffle(unsigned x, int lane) {
  return __shfl_sync(0xffffffffu, x, lane);
}
ZMI_INLINE unsigned zmi_most(unsigned x) {
  return __reduce_max_sync(0xffffffffu, x);
}
ZMI_INLINE int zmi_dot_us(unsigned a, int b, int c) {
  int d;
  asm("dp4a.u32.s32 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
ZMI_INLINE int zmi_dot_ss(int a, int b, int c) {
  return __dp4a(a, b, c);
}
ZMI_INLINE void zmi_tile_us(int d[4], const unsigned a[4], const unsigned b[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
ZMI_INLINE void zmi_tile_ss(int d[4], const unsigned a[4], const unsigned b[2]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
ZMI_INLINE int zmi_nearest(float x) {
  return __float2int_rn(x);
}
ZMI_INLINE float zmi_larger(float a, float b) {
  float c;
  asm("max.NaN.ftz.f32 %0, %1, %2;" : "=f"(c) : "f"(fabsf(a)), "f"(fabsf(b)));
  return c;
}
ZMI_INLINE unsigned zmi_pair_bf16(float low, float high) {
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
ZMI_INLINE unsigned zmi_bytes(unsigned a, unsigned b, unsigned which) {
  return __byte_perm(a, b, which);
}
ZMI_INLINE double zmi_add_double(double a, double b) {
  return __dadd_rn(a, b);
}
ZMI_INLINE double zmi_multiply_double(double a, double b) {
  return __dmul_rn(a, b);
}
ZMI_INLINE double zmi_fma_double(double a, double b, double c) {
  return __fma_rn(a, b, c);
}
ZMI_INLINE unsigned zmi_cache_load(const unsigned *p) {
  return __ldcg(p);
}

ZMI_INLINE void zmi_copy_async(char *to, const char *from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
ZMI_INLINE void zmi_copy_word_async(char *to, const char *from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from) : "memory");
}
ZMI_INLINE void zmi_copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
ZMI_INLINE void zmi_copy_wait(unsigned n) {
  if (n == 0)
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  else if (n == 1)
    asm volatile("cp.async.wait_group 1;" ::: "memory");
  else if (n == 2)
    asm volatile("cp.async.wait_group 2;" ::: "memory");
  else
    asm volatile("cp.async.wait_group 3;" ::: "memory");
}
#if __CUDA_ARCH__ >= 900
// One thread asks the copy engine for all.
ZMI_INLINE void zmi_bulk_open(unsigned long long *gate) {
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"((unsigned)__cvta_generic_to_shared(gate)) : "memory");
}
ZMI_INLINE void zmi_bulk_opened() {
  asm volatile("fence.mbarrier_init.release.cluster;\n\tfence.proxy.async.shared::cta;" ::: "memory");
}
ZMI_INLINE void zmi_bulk_copy(char *to, const char *from, int bytes, unsigned long long *gate) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(gate);
  if (threadIdx.x % 32 != 0) return;
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(bytes) : "memory");
  unsigned long long once; // what is read once is the first to leave the second-level cache, before code, parameters and activations
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(once));
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(
                   (unsigned)__cvta_generic_to_shared(to)),
               "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(at), "l"(once)
               : "memory");
}
ZMI_INLINE void zmi_bulk_asked(unsigned long long *gate) {
  if (threadIdx.x % 32 == 0) asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"((unsigned)__cvta_generic_to_shared(gate)) : "memory");
}
#else
// Each thread asks for 16 bytes at a time and arrives when they have come.
ZMI_INLINE void zmi_bulk_open(unsigned long long *gate) {
  asm volatile("mbarrier.init.shared.b64 [%0], 32;" ::"r"((unsigned)__cvta_generic_to_shared(gate)) : "memory");
}
ZMI_INLINE void zmi_bulk_opened() {
}
ZMI_INLINE void zmi_bulk_copy(char *to, const char *from, int bytes, unsigned long long *gate) {
  (void)gate;
  for (int i = (int)threadIdx.x % 32 * 16; i < bytes; i += 512) zmi_copy_async(to + i, from + i);
}
ZMI_INLINE void zmi_bulk_asked(unsigned long long *gate) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"((unsigned)__cvta_generic_to_shared(gate)) : "memory");
}
#endif
ZMI_INLINE void zmi_gate_open(unsigned long long *gate, unsigned n) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"((unsigned)__cvta_generic_to_shared(gate)), "r"(n) : "memory");
}
ZMI_INLINE void zmi_gate_arrive(unsigned long long *gate, unsigned n) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(gate);
#if __CUDA_ARCH__ >= 900
  asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0], %1;}" ::"r"(at), "r"(n) : "memory");
#else
  for (; n > 0; n--) asm volatile("{.reg .b64 state; mbarrier.arrive.shared.b64 state, [%0];}" ::"r"(at) : "memory");
#endif
}
ZMI_INLINE bool zmi_gate_passed(const unsigned long long *gate, unsigned turn) {
  unsigned there;
  asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
               : "=r"(there)
               : "r"((unsigned)__cvta_generic_to_shared(gate)), "r"(turn)
               : "memory");
  return there != 0;
}
ZMI_INLINE void zmi_bulk_wait(unsigned long long *gate, unsigned turn) {
  const unsigned at = (unsigned)__cvta_generic_to_shared(gate);
  unsigned there;
  do {
#if __CUDA_ARCH__ >= 900
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(there)
                 : "r"(at), "r"(turn)
                 : "memory");
#else
    asm volatile("{.reg .pred p; mbarrier.test_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(there)
                 : "r"(at), "r"(turn)
                 : "memory");
#endif
  } while (!there);
}
ZMI_INLINE void zmi_arrive(unsigned *p) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(p) : "memory");
}
ZMI_INLINE unsigned zmi_look(const unsigned *p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
ZMI_INLINE unsigned zmi_look_host(const unsigned *p) {
  unsigned v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
ZMI_INLINE void zmi_tell_host(unsigned long long *p, unsigned long long x) {
  asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(p), "l"(x) : "memory");
}
ZMI_INLINE unsigned long long zmi_clock() {
  return (unsigned long long)clock64();
}
ZMI_INLINE void zmi_pause() {
  __nanosleep(20);
}
ZMI_INLINE unsigned zmi_add_atomic(unsigned *p, unsigned n) {
  return atomicAdd(p, n);
}
ZMI_INLINE void zmi_add_atomic_wide(unsigned long long *p, unsigned long long n) {
  atomicAdd(p, n);
}
ZMI_INLINE unsigned long long zmi_multiply_high(unsigned long long a, unsigned long long b) {
  return __umul64hi(a, b);
}
ZMI_INLINE void zmi_fence() {
  __threadfence();
}
ZMI_INLINE unsigned long long zmi_nanoseconds() {
  unsigned long long t;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t));
  return t;
}

#endif
