// The names of the device's machine.h on the CPU: device code compiles as C++17 against them, so that tests compare its bits without a
// GPU. Threads are fibers that switch where they wait (gpu_machine.cc); tests/gpu.h starts kernels.
#ifndef ZMLX_TEST_GPU_MACHINE_H
#define ZMLX_TEST_GPU_MACHINE_H

#include "backend/prelude/numbers.h"

#define ZMI_DEVICE static __attribute__((unused))
#define ZMI_INLINE static inline __attribute__((unused))
#define ZMI_APART static __attribute__((unused))
#define ZMI_KERNEL extern "C" void
#define ZMI_KERNEL_ALONE extern "C" void
#define ZMI_KERNEL_FED extern "C" void
#define ZMI_GIVEN

// Of the fiber that runs now.
struct gpu_place {
  int thread, block, blocks;
  char *shared;
};
extern gpu_place *gpu_here;

// `line`: a thread that waits at another line of the source than the others is divergent.
void gpu_wait_block(int line);
void gpu_wait_all(int line);
void gpu_wait_warp(int line);
unsigned gpu_exchange(unsigned x, int lane, int line);
void gpu_tile(int d[4], const unsigned a[4], const unsigned b[2], bool is_signed, int line);
void gpu_give_way();
void gpu_begin_next();
void gpu_wait_before();
unsigned long long gpu_ticks(); // another number each time, rising
unsigned long long gpu_nanoseconds();
unsigned gpu_look_host(const unsigned *p);
// Copies happen as late as they may: when a thread waits for them. Until then garbage lies there.
void gpu_copy(char *to, const char *from, int bytes);
void gpu_copy_commit();
void gpu_copy_wait(unsigned most);
void gpu_bulk_open(unsigned long long *gate);
void gpu_bulk_copy(char *to, const char *from, int bytes, unsigned long long *gate);
void gpu_bulk_asked(unsigned long long *gate);
void gpu_bulk_wait(unsigned long long *gate, unsigned turn);
void gpu_gate_open(unsigned long long *gate, unsigned n);
void gpu_gate_arrive(unsigned long long *gate, unsigned n);

ZMI_INLINE char *zmi_shared() {
  return gpu_here->shared;
}
ZMI_INLINE int zmi_thread() {
  return gpu_here->thread;
}
ZMI_INLINE int zmi_block() {
  return gpu_here->block;
}
ZMI_INLINE int zmi_blocks() {
  return gpu_here->blocks;
}
ZMI_INLINE void zmi_begin_next() {
  gpu_begin_next();
}
ZMI_INLINE void zmi_wait_before() {
  gpu_wait_before();
}
// Reads what is asked for: that it is there is found by the address sanitizer, or by the system.
ZMI_INLINE void zmi_cache_ahead(const void *p) {
  (void)*(const volatile char *)p;
}
template <typename T> ZMI_INLINE T *zmi_near(T *p) {
  return p;
}
ZMI_INLINE void zmi_sync(int line = __builtin_LINE()) {
  gpu_wait_block(line);
}
ZMI_INLINE void zmi_sync_all(int line = __builtin_LINE()) {
  gpu_wait_all(line);
}
ZMI_INLINE void zmi_sync_warp(int line = __builtin_LINE()) {
  gpu_wait_warp(line);
}
ZMI_INLINE void zmi_copy_async(char *to, const char *from) {
  gpu_copy(to, from, 16);
}
ZMI_INLINE void zmi_copy_word_async(char *to, const char *from) {
  gpu_copy(to, from, 4);
}
ZMI_INLINE void zmi_copy_commit() {
  gpu_copy_commit();
}
ZMI_INLINE void zmi_copy_wait(unsigned n) {
  gpu_copy_wait(n);
}
ZMI_INLINE void zmi_bulk_open(unsigned long long *gate) {
  gpu_bulk_open(gate);
}
ZMI_INLINE void zmi_bulk_opened() {
}
ZMI_INLINE void zmi_bulk_copy(char *to, const char *from, int bytes, unsigned long long *gate) {
  gpu_bulk_copy(to, from, bytes, gate);
}
ZMI_INLINE void zmi_bulk_asked(unsigned long long *gate) {
  gpu_bulk_asked(gate);
}
ZMI_INLINE void zmi_bulk_wait(unsigned long long *gate, unsigned turn) {
  gpu_bulk_wait(gate, turn);
}
ZMI_INLINE void zmi_gate_open(unsigned long long *gate, unsigned n) {
  gpu_gate_open(gate, n);
}
ZMI_INLINE void zmi_gate_arrive(unsigned long long *gate, unsigned n) {
  gpu_gate_arrive(gate, n);
}
ZMI_INLINE bool zmi_gate_passed(const unsigned long long *gate, unsigned turn) {
  return (*(const volatile unsigned long long *)gate & 1u) != turn;
}
ZMI_INLINE void zmi_arrive(unsigned *p) {
  *p += 1;
}
ZMI_INLINE unsigned zmi_look(const unsigned *p) {
  return *(const volatile unsigned *)p;
}
ZMI_INLINE unsigned long long zmi_clock() {
  return gpu_ticks();
}
ZMI_INLINE unsigned zmi_shuffle(unsigned x, int lane, int line = __builtin_LINE()) {
  return gpu_exchange(x, lane, line);
}
ZMI_INLINE unsigned zmi_most(unsigned x, int line = __builtin_LINE()) {
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other = gpu_exchange(x, (gpu_here->thread % 32) ^ step, line);
    x = other > x ? other : x;
  }
  return x;
}
// Where a thread waits for memory that another block writes: lets others run.
ZMI_INLINE void zmi_pause() {
  gpu_give_way();
}
ZMI_INLINE int zmi_dot_us(unsigned a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (int)(a >> i & 255u) * (signed char)(unsigned char)((unsigned)b >> i);
  return c;
}
ZMI_INLINE int zmi_dot_ss(int a, int b, int c) {
  for (int i = 0; i < 32; i += 8) c += (signed char)(unsigned char)((unsigned)a >> i) * (signed char)(unsigned char)((unsigned)b >> i);
  return c;
}
ZMI_INLINE void zmi_tile_us(int d[4], const unsigned a[4], const unsigned b[2], int line = __builtin_LINE()) {
  gpu_tile(d, a, b, false, line);
}
ZMI_INLINE void zmi_tile_ss(int d[4], const unsigned a[4], const unsigned b[2], int line = __builtin_LINE()) {
  gpu_tile(d, a, b, true, line);
}
ZMI_INLINE int zmi_nearest(float x) {
  const float a = x < 0 ? -x : x, whole = a < 0x1p23f ? (a + 0x1p23f) - 0x1p23f : a;
  return x != x ? 0 : (int)(x < 0 ? -whole : whole);
}
ZMI_INLINE float zmi_larger(float a, float b) {
  const float x = zk_abs_float(a), y = zk_abs_float(b);
  return x != x || y != y ? __builtin_nanf("") : x > y ? x : y;
}
ZMI_INLINE unsigned zmi_pair_bf16(float low, float high) { // with the NaN of the hardware, which no result may have
  const unsigned l = low == low ? zk_store_bfloat16_float(low) : 0x7fffu, h = high == high ? zk_store_bfloat16_float(high) : 0x7fffu;
  return h << 16 | l;
}
ZMI_INLINE unsigned zmi_bytes(unsigned a, unsigned b, unsigned which) {
  const unsigned long long both = (unsigned long long)b << 32 | a;
  unsigned out = 0;
  for (int i = 0; i < 4; i++) out |= (unsigned)(both >> (which >> 4 * i & 7u) * 8 & 255u) << 8 * i;
  return out;
}
ZMI_INLINE double zmi_add_double(double a, double b) {
  return a + b;
}
ZMI_INLINE double zmi_multiply_double(double a, double b) {
  return a * b;
}
ZMI_INLINE double zmi_fma_double(double a, double b, double c) {
  return __builtin_fma(a, b, c);
}
ZMI_INLINE unsigned zmi_add_atomic(unsigned *p, unsigned n) {
  const unsigned before = *p;
  *p += n;
  return before;
}
ZMI_INLINE void zmi_add_atomic_wide(unsigned long long *p, unsigned long long n) {
  *p += n;
}
ZMI_INLINE unsigned long long zmi_multiply_high(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
ZMI_INLINE void zmi_fence() {
}
ZMI_INLINE unsigned long long zmi_nanoseconds() {
  return gpu_nanoseconds();
}
ZMI_INLINE unsigned zmi_look_host(const unsigned *p) {
  return gpu_look_host(p);
}
ZMI_INLINE void zmi_tell_host(unsigned long long *p, unsigned long long x) {
  *p = x;
}
ZMI_INLINE unsigned zmi_cache_load(const unsigned *p) {
  return *(const volatile unsigned *)p;
}

#endif
