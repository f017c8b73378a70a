// The imitations of the CUDA driver and of NVRTC for tests (fake_cuda.c, fake_nvrtc.c): what they counted. A test finds fake_cuda_look and
// fake_nvrtc_look in the loaded libraries by dlsym.
//
// ZMLX_FAKE_CUDA, words "name=number" separated by commas, is read whenever GPUs are counted or a program is created:
//   devices=0       there is no GPU              driver=11080   the driver's version
//   init=N          cuInit gives N               capability=75  of the GPU
//   memory=BYTES    of the GPU                   compile=0      NVRTC refuses the text and says why
//   retain=N        taking a context gives N     mode=N         the compute mode
//   load=N          loading code gives N, as long as loads=N is not used up
//   lost=N          what a fault gives instead of an illegal address
//   hang=1          a block of resident launches is missing, and the clock runs
//   flow=1          launches must touch what flow.c says of them, and nothing else; and so must the instructions of resident launches
//   order=1         blocks and threads of all launches run in order
//   stop=N          at the Nth look of the device at the stop flag the host has set it
//   fault=N         the Nth launch from here on reads an illegal address, after which the context is of no use
//   early=1         launches that may begin before the one before them is over are declined; 2: a graph of them is
//   refuse=N        the Nth call to launch is refused, which the context survives
#ifndef ZMLX_TEST_FAKE_CUDA_H
#define ZMLX_TEST_FAKE_CUDA_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

// What a READY makes its rows of: plain rows, normalized ones or those of a convolution; more than one; only the rows of a worker's tiles.
// Added first: rows, or weighted sums of experts' results; the sum is kept.
enum {
  FAKE_READY_PLAIN = 1,
  FAKE_READY_NORM = 2,
  FAKE_READY_CONV = 4,
  FAKE_READY_ROWS = 8,
  FAKE_READY_OWN_ROWS = 16,
  FAKE_READY_ADDED = 32,
  FAKE_READY_EXPERTS = 64,
  FAKE_READY_SUM = 128,
  FAKE_READY_ALL = 255
};

typedef struct fake_cuda_facts {
  int memories, host_memories, streams, events, modules, graphs, execs, contexts; // alive now
  size_t bytes, most;                                                             // of device memory now, and the most since it was last 0
  unsigned long launches, replays, opened;                                        // opened: contexts taken so far
  unsigned long early;                                                            // launches put into a stream that may begin early
  unsigned long looks;                                                            // of the device at the stop flag
  unsigned sources;                                                               // of READY, whose flow was looked at
  char wrong[320];                                                                // the first misuse of the interface, or ""
} fake_cuda_facts;

typedef struct fake_nvrtc_facts {
  int programs, compiles; // alive now; compiled so far
} fake_nvrtc_facts;

static inline long long fake_option(const char *name, long long otherwise) {
  const char *at = getenv("ZMLX_FAKE_CUDA");
  const size_t n = strlen(name);
  while (at && *at) {
    if (strncmp(at, name, n) == 0 && at[n] == '=') return strtoll(at + n + 1, NULL, 10);
    at = strchr(at, ',');
    if (at) at++;
  }
  return otherwise;
}

#endif
