// What is used of the CUDA driver and of NVRTC: two tables of functions, found at run time. Nothing of CUDA is needed to build this.
#ifndef ZMI_CUDA_DRIVER_H
#define ZMI_CUDA_DRIVER_H

#include "base/base.h"

typedef int cu_result; // 0: success
typedef int cu_device;
typedef unsigned long long cu_pointer;
typedef struct cu_context_s *cu_context;
typedef struct cu_module_s *cu_module;
typedef struct cu_function_s *cu_function;
typedef struct cu_stream_s *cu_stream;
typedef struct cu_event_s *cu_event;
typedef struct cu_graph_s *cu_graph;
typedef struct cu_graph_exec_s *cu_graph_exec;
typedef struct nvrtc_program_s *nvrtc_program;

// How a kernel is launched, with attributes.
typedef struct cu_launch_attribute {
  int id;
  char unused[4];
  union {
    char room[64];
    int number;
  } value;
} cu_launch_attribute;
typedef struct cu_launch_config {
  unsigned gx, gy, gz, bx, by, bz, shared;
  cu_stream stream;
  cu_launch_attribute *attributes;
  unsigned count;
} cu_launch_config;

// Numbers of the driver's interface that are used here.
enum {
  CU_INVALID_VALUE = 1,
  CU_OUT_OF_MEMORY = 2,
  CU_DEVICE_UNAVAILABLE = 46,
  CU_NO_DEVICE = 100,
  CU_INVALID_DEVICE = 101,
  CU_INVALID_IMAGE = 200,
  CU_NO_BINARY = 209,
  CU_ECC_ERROR = 214,
  CU_UNSUPPORTED_CODE = 222,
  CU_NOT_READY = 600,
  CU_ILLEGAL_ADDRESS = 700,
  CU_TOOK_TOO_LONG = 702,
  CU_TOO_MANY_BLOCKS = 720,
  CU_NOT_SUPPORTED = 801,
  CU_SYSTEM_NOT_READY = 802,
  CU_DRIVER_MISMATCH = 803,
  CU_CAPTURE_UNSUPPORTED = 900,
  CU_CAPTURE_INVALIDATED = 901,
  CU_UNKNOWN = 999,
  CU_ATTRIBUTE_PROCESSORS = 16,
  CU_ATTRIBUTE_MAJOR = 75,
  CU_ATTRIBUTE_MINOR = 76,
  CU_ATTRIBUTE_SHARED = 97, // most shared memory of a block when it asks for it
  CU_ATTRIBUTE_L2 = 38,
  CU_ATTRIBUTE_CLOCK = 13,
  CU_ATTRIBUTE_MODE = 20,
  CU_ATTRIBUTE_COOPERATIVE = 95,
  CU_MODE_CLOSED = 2,     // of CU_ATTRIBUTE_MODE
  CU_FUNCTION_SHARED = 8, // most dynamic shared memory of a function
  CU_STREAM_NON_BLOCKING = 1,
  CU_EVENT_NO_TIMING = 2,
  CU_CAPTURE_LOCAL = 1,
  CU_HOST_MAPPED = 2,
  CU_CAN_MAP_HOST = 19,
  CU_LAUNCH_EARLY = 6,     // an attribute of a launch: it may begin before the one before it is over
  CU_EARLY_DRIVER = 12030, // the first that makes a graph of such launches
  CU_OLDEST_DRIVER = 12000
};

// X(member, "symbol", result and arguments)
#define ZMI_CUDA_FUNCTIONS(X)                                                                                                              \
  X(init, "cuInit", (unsigned flags))                                                                                                      \
  X(driver_version, "cuDriverGetVersion", (int *version))                                                                                  \
  X(device_count, "cuDeviceGetCount", (int *count))                                                                                        \
  X(device_get, "cuDeviceGet", (cu_device * device, int index))                                                                            \
  X(device_name, "cuDeviceGetName", (char *name, int size, cu_device device))                                                              \
  X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, cu_device device))                                               \
  X(device_memory, "cuDeviceTotalMem_v2", (size_t * bytes, cu_device device))                                                              \
  X(context_retain, "cuDevicePrimaryCtxRetain", (cu_context * context, cu_device device))                                                  \
  X(context_release, "cuDevicePrimaryCtxRelease_v2", (cu_device device))                                                                   \
  X(context_set, "cuCtxSetCurrent", (cu_context context))                                                                                  \
  X(memory_info, "cuMemGetInfo_v2", (size_t * left, size_t * total))                                                                       \
  X(memory_alloc, "cuMemAlloc_v2", (cu_pointer * at, size_t bytes))                                                                        \
  X(memory_free, "cuMemFree_v2", (cu_pointer at))                                                                                          \
  X(host_alloc, "cuMemHostAlloc", (void **at, size_t bytes, unsigned flags))                                                               \
  X(host_free, "cuMemFreeHost", (void *at))                                                                                                \
  X(host_address, "cuMemHostGetDevicePointer_v2", (cu_pointer * at, void *host, unsigned flags))                                           \
  X(upload, "cuMemcpyHtoDAsync_v2", (cu_pointer to, const void *from, size_t bytes, cu_stream stream))                                     \
  X(download, "cuMemcpyDtoHAsync_v2", (void *to, cu_pointer from, size_t bytes, cu_stream stream))                                         \
  X(copy, "cuMemcpyDtoDAsync_v2", (cu_pointer to, cu_pointer from, size_t bytes, cu_stream stream))                                        \
  X(clear, "cuMemsetD8Async", (cu_pointer to, unsigned char value, size_t bytes, cu_stream stream))                                        \
  X(stream_create, "cuStreamCreate", (cu_stream * stream, unsigned flags))                                                                 \
  X(stream_destroy, "cuStreamDestroy_v2", (cu_stream stream))                                                                              \
  X(stream_wait, "cuStreamSynchronize", (cu_stream stream))                                                                                \
  X(stream_query, "cuStreamQuery", (cu_stream stream))                                                                                     \
  X(event_create, "cuEventCreate", (cu_event * event, unsigned flags))                                                                     \
  X(event_destroy, "cuEventDestroy_v2", (cu_event event))                                                                                  \
  X(event_record, "cuEventRecord", (cu_event event, cu_stream stream))                                                                     \
  X(event_wait, "cuEventSynchronize", (cu_event event))                                                                                    \
  X(event_elapsed, "cuEventElapsedTime", (float *milliseconds, cu_event from, cu_event to))                                                \
  X(module_load, "cuModuleLoadData", (cu_module * module, const void *image))                                                              \
  X(module_unload, "cuModuleUnload", (cu_module module))                                                                                   \
  X(module_function, "cuModuleGetFunction", (cu_function * function, cu_module module, const char *name))                                  \
  X(function_set, "cuFuncSetAttribute", (cu_function function, int attribute, int value))                                                  \
  X(function_blocks, "cuOccupancyMaxActiveBlocksPerMultiprocessor", (int *blocks, cu_function f, int threads, size_t shared))              \
  X(launch, "cuLaunchKernel",                                                                                                              \
    (cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, cu_stream stream,       \
     void **arguments, void **extra))                                                                                                      \
  X(launch_with, "cuLaunchKernelEx", (const cu_launch_config *how, cu_function f, void **arguments, void **extra))                         \
  X(launch_together, "cuLaunchCooperativeKernel",                                                                                          \
    (cu_function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, cu_stream stream,       \
     void **arguments))                                                                                                                    \
  X(capture_begin, "cuStreamBeginCapture_v2", (cu_stream stream, int mode))                                                                \
  X(capture_end, "cuStreamEndCapture", (cu_stream stream, cu_graph * graph))                                                               \
  X(graph_instantiate, "cuGraphInstantiateWithFlags", (cu_graph_exec * exec, cu_graph graph, unsigned long long flags))                    \
  X(graph_launch, "cuGraphLaunch", (cu_graph_exec exec, cu_stream stream))                                                                 \
  X(graph_destroy, "cuGraphDestroy", (cu_graph graph))                                                                                     \
  X(graph_exec_destroy, "cuGraphExecDestroy", (cu_graph_exec exec))                                                                        \
  X(error_name, "cuGetErrorName", (cu_result result, const char **name))                                                                   \
  X(error_text, "cuGetErrorString", (cu_result result, const char **text))

#define ZMI_NVRTC_FUNCTIONS(X)                                                                                                             \
  X(version, "nvrtcVersion", (int *major, int *minor))                                                                                     \
  X(create, "nvrtcCreateProgram",                                                                                                          \
    (nvrtc_program * program, const char *source, const char *name, int headers, const char *const *texts, const char *const *names))      \
  X(compile, "nvrtcCompileProgram", (nvrtc_program program, int count, const char *const *options))                                        \
  X(log_size, "nvrtcGetProgramLogSize", (nvrtc_program program, size_t * size))                                                            \
  X(log_text, "nvrtcGetProgramLog", (nvrtc_program program, char *text))                                                                   \
  X(binary_size, "nvrtcGetCUBINSize", (nvrtc_program program, size_t * size))                                                              \
  X(binary, "nvrtcGetCUBIN", (nvrtc_program program, char *binary))                                                                        \
  X(destroy, "nvrtcDestroyProgram", (nvrtc_program * program))

#define ZMI_CUDA_MEMBER(member, symbol, arguments) cu_result(*member) arguments;
typedef struct zmi_cuda_driver {
  ZMI_CUDA_FUNCTIONS(ZMI_CUDA_MEMBER)
} zmi_cuda_driver;
typedef struct zmi_nvrtc {
  ZMI_NVRTC_FUNCTIONS(ZMI_CUDA_MEMBER)
} zmi_nvrtc;
#undef ZMI_CUDA_MEMBER

// Each is loaded once a process and stays. NULL with a message: not there, or too old.
const zmi_cuda_driver *zmi_cuda_driver_find(void);
const zmi_nvrtc *zmi_nvrtc_find(void);

// What the driver says of a result, and what is to be done: "CUDA_ERROR_OUT_OF_MEMORY (2): out of memory".
enum { ZMI_CUDA_WORDS = 400 };
const char *zmi_cuda_words(const zmi_cuda_driver *d, cu_result result, char text[ZMI_CUDA_WORDS]);
// Whether the context is of no use after it.
bool zmi_cuda_ends(cu_result result);

#endif
