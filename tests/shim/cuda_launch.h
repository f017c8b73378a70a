// Behind an emitted CUDA kernel, with cuda_kernels.h before it: how the imitated driver launches it. The arguments of a launch are copied
// when it is asked for, as a driver does, and the kernel's own type says how many there are and how large.
#ifndef ZMLX_SHIM_CUDA_LAUNCH
#define ZMLX_SHIM_CUDA_LAUNCH

#include <tuple>
#include <type_traits>
#include <utility>

template <typename T> static bool shim_is_known(T value, int (*known)(const void *)) {
  if constexpr (std::is_pointer<T>::value)
    return known((const void *)value) != 0;
  else
    return true;
}

template <auto F, typename... A> struct shim_kernel {
  typedef std::tuple<A...> pack;
  template <size_t... I> static pack *take(void **arguments, std::index_sequence<I...>) {
    return new pack(*(A *)arguments[I]...);
  }
  static void *copy(void **arguments) {
    return take(arguments, std::index_sequence_for<A...>());
  }
  static void one(void *p, uint, uint, uint, uint) {
    std::apply(F, *(pack *)p);
  }
  static bool check(void *p, int (*known)(const void *)) {
    return std::apply([known](A... a) { return (shim_is_known(a, known) && ...); }, *(pack *)p);
  }
};

template <auto F, typename... A> static shim_kernel<F, A...> shim_of(void (*)(A...));

#define SHIM_LAUNCH(entry)                                                                                                                 \
  typedef decltype(shim_of<&entry>(&entry)) shim_this;                                                                                     \
  extern "C" void *shim_copy(void **arguments) { return shim_this::copy(arguments); }                                                      \
  extern "C" int shim_check(void *p, int (*known)(const void *)) { return shim_this::check(p, known); }                                    \
  extern "C" void shim_launch(void *p, uint threads, uint groups) { shim_run(shim_this::one, p, threads, groups); }                        \
  extern "C" void shim_drop(void *p) { delete (shim_this::pack *)p; }

#endif
