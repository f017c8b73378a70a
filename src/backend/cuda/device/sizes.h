// Bytes of shared memory that a block needs, for the host that writes instructions and for the code that uses them. Macros: one text for
// C17, C++ and CUDA C.
#ifndef ZMI_GPU_SIZES_H
#define ZMI_GPU_SIZES_H

enum {
  ZMI_GPU_QUERIES = 8,  // query heads that go through a range of keys together
  ZMI_GPU_PART = 32768, // bytes of keys, or of values, in shared memory at a time: 128 positions of 128 bfloat16 or 64 float32 elements
  ZMI_GPU_SKEW = 64     // bytes between blocks of 16 positions of keys there, so that two of them lie in different banks
};

// Of a part: its keys or values, queries [pairs][8][2] and probabilities [8][128]; and the running results of 8 heads, if ranges follow
// one another.
#define ZMI_GPU_ATTEND_SHARED(dim, split)                                                                                                  \
  (ZMI_GPU_PART + ZMI_GPU_KEYS / ZMI_GPU_BLOCK * ZMI_GPU_SKEW + 64 * ZMI_GPU_QUERIES * 2 * 4 + ZMI_GPU_QUERIES * ZMI_GPU_KEYS * 4 +        \
   ZMI_GPU_QUERIES * 8 * 4 + ((split) ? 0 : ZMI_GPU_QUERIES * 4 * (int)(dim)))

#define ZMI_GPU_JOIN_SHARED ((3 * ZMI_GPU_THREADS + ZMI_GPU_THREADS / 32) * 4)

// Rows of a router that a block takes at a time, each by one or more warps of its own: p and scores of each.
#define ZMI_GPU_ROUTE_WARPS(experts) ((experts) <= 512 ? 8 : (experts) <= 1024 ? 4 : (experts) <= 2048 ? 2 : 1)
#define ZMI_GPU_ROUTE_SHARED(experts) (ZMI_GPU_ROUTE_WARPS(experts) * 8 * (int)(experts))

#define ZMI_GPU_CONV_SHARED ((ZMI_GPU_THREADS / 32) * 4)

// The resident kernel: a slot of the ring of weights; most of what READY makes, and elements of a row that it normalizes; most pairs that a
// ROUTE of every block's own chooses; most bytes of weights and of results of a product that every block makes for itself;
// taps of a convolution that READY makes.
enum {
  ZMI_GPU_SLOT = 20480,
  ZMI_GPU_SLOTS = 8, // most; always a power of two
  ZMI_GPU_READY_BYTES = 24576,
  ZMI_GPU_READY_NORM = 8192,
  ZMI_GPU_OWN = 128,
  ZMI_GPU_OWN_WEIGHTS = 81920,
  ZMI_GPU_OWN_RESULTS = 2048,
  ZMI_GPU_READY_TAPS = 3,
  ZMI_GPU_FEED = 192
};
#define ZMI_GPU_WARPS (ZMI_GPU_THREADS / 32)
#define ZMI_GPU_RING_SHARED(slots) ((slots)*ZMI_GPU_SLOT)

// What a block keeps, at the beginning of its shared memory: chosen experts, their weights, what it has to know of the play; the
// instruction at hand and the next one; what the warp that asks for weights and the others tell each other. Scratch of instructions
// follows.
#define ZMI_GPU_OWN_SITE (ZMI_GPU_OWN * 8)
#define ZMI_GPU_OWN_CODE (ZMI_GPU_OWN_SITE + 128)
#define ZMI_GPU_OWN_FEED (ZMI_GPU_OWN_CODE + 2 * (int)sizeof(zmi_gpu_instruction))
#define ZMI_GPU_OWN_SHARED ((ZMI_GPU_OWN_FEED + ZMI_GPU_FEED + 127) / 128 * 128)
// A choice among tokens: words of memory that it takes, and of shared memory. Four bits of a rank in each of eight turns, for two lists.
enum { ZMI_GPU_LISTS = 2, ZMI_GPU_TURNS = 8, ZMI_GPU_BINS = 16 };
#define ZMI_GPU_CHOICE_WORDS(blocks) (5 * (blocks) + 2 + ZMI_GPU_SAID + ZMI_GPU_TURNS * ZMI_GPU_LISTS * ZMI_GPU_BINS)
#define ZMI_GPU_CHANGES (ZMI_GPU_SEEN + ZMI_GPU_SAID + ZMI_GPU_BIASES) // logits that biases and penalties change
#define ZMI_GPU_CHOICE_LIST (ZMI_GPU_WARPS * ZMI_GPU_LISTS * ZMI_GPU_BINS * 8) // their list in shared memory, behind words of warps
#define ZMI_GPU_CHOICE_SHARED (ZMI_GPU_CHOICE_LIST + 8 + ZMI_GPU_CHANGES * 8)
#define ZMI_GPU_READY_SHARED(k) (((int)(k) + ZMI_GPU_LANES) * 4)

// Products of many rows: blocks of 16 rows of weights and rows of x of a tile; k of a step. A stage of shared memory holds a step: codes,
// scales and digits, whose rows lie so that four of them are in different banks, and the scale and the sum of each row and group.
enum { ZMI_GPU_MANY_BLOCKS = 16, ZMI_GPU_MANY_COLUMNS = 32, ZMI_GPU_MANY_STAGES = 3 }; // stages: at most, and at least 2
#define ZMI_GPU_MANY_STEP(bits, group) ((bits) <= 4 && (group) >= 64 ? 256 : 128)
#define ZMI_GPU_MANY_ROW(step, digits) ((step) * (digits) + 32)
#define ZMI_GPU_MANY_SCALES(group) ((group) == 16 ? 16 : 128) // bytes a block and group: 16 numbers of 4 bytes, twice, or of 1
#define ZMI_GPU_MANY_STAGE_OF(step, bits, group, digits)                                                                                   \
  (ZMI_GPU_MANY_BLOCKS * ((step)*2 * (bits) + (step) / (group)*ZMI_GPU_MANY_SCALES(group)) +                                               \
   ZMI_GPU_MANY_COLUMNS * (ZMI_GPU_MANY_ROW(step, digits) + (step) / (group)*8))
#define ZMI_GPU_MANY_STAGE(bits, group, digits) ZMI_GPU_MANY_STAGE_OF(ZMI_GPU_MANY_STEP(bits, group), bits, group, digits)
#define ZMI_GPU_MANY_SHARED(stages, stage) ((stages) * (stage) + ZMI_GPU_MANY_COLUMNS * 4) // behind the stages: which pairs the rows are of
#define ZMI_GPU_PIECES(pairs, experts) ((pairs) / ZMI_GPU_MANY_COLUMNS + ((pairs) < (experts) + 1 ? (pairs) : (experts) + 1))
#define ZMI_GPU_SORT_SHARED(experts) (((experts) + 1) * 8)

#endif
