// What the device plays: instructions, made by the host from a bound tape. One text for C17, C++ and CUDA C.
//
// An instruction has independent tiles. A step is played by `workers` thread blocks of ZMI_GPU_THREADS threads; worker w takes tiles w,
// w + workers, w + 2 workers, ...: as a launch of its own (stream, graph), or inside the resident kernel. Which worker takes which tile
// never changes a bit. Strides count elements, addresses are bytes of device memory; 0 is "absent". Structs are filled by their fields:
// bytes of padding would be set by nobody, and an instruction is sent as bytes.
#ifndef ZMI_GPU_INSTRUCTION_H
#define ZMI_GPU_INSTRUCTION_H

typedef unsigned long long zmi_gpu_address;

enum {
  ZMI_GPU_THREADS = 256, // of a block
  ZMI_GPU_FED = 288,     // of a block of the resident kernel: one warp more, which asks for weights
  ZMI_GPU_LANES = 16,    // rows of a packed block of weights (quant.h)
  ZMI_GPU_RANGE = 256,   // k of one partial sum of a dot product
  ZMI_GPU_KEYS = 128,    // positions of one partial softmax
  ZMI_GPU_BLOCK = 16,    // positions side by side in the key cache
  ZMI_GPU_HEAD = 16,     // floats before the values of a partial result of attention: maximum, sum, padding
  ZMI_GPU_CHANNELS = 64, // of a tile of the short convolution
  ZMI_GPU_PIECE = 512,   // elements of a tile of digits, of element-wise work and of weighted sums
  ZMI_GPU_RANK = 8,
  ZMI_GPU_SAID = 32, // most tokens of a play
  ZMI_GPU_ENDS = 8,  // most ids after which it ends
  ZMI_GPU_SEEN = 64, // most tokens that a play remembers for penalties
  ZMI_GPU_BIASES = 32,
  // Shared memory of a block, in bytes.
  ZMI_GPU_NORM_SHARED = (2048 + 16) * 4,
  ZMI_GPU_DOT_SHARED = 64 * 16 * 4
};

typedef enum zmi_gpu_dtype { ZMI_GPU_F32, ZMI_GPU_BF16, ZMI_GPU_F16 } zmi_gpu_dtype;
typedef enum zmi_gpu_mode { ZMI_GPU_FLOATS, ZMI_GPU_AFFINE, ZMI_GPU_MXFP4, ZMI_GPU_MXFP8, ZMI_GPU_NVFP4 } zmi_gpu_mode;

typedef enum zmi_gpu_kind {
  ZMI_GPU_NOTHING,
  ZMI_GPU_EMBED,
  ZMI_GPU_NORM,
  ZMI_GPU_DIGITS,
  ZMI_GPU_DOT,
  ZMI_GPU_ELEMENTS,
  ZMI_GPU_ANGLES,
  ZMI_GPU_ROTATE,
  ZMI_GPU_WRITE,
  ZMI_GPU_ATTEND,
  ZMI_GPU_JOIN,
  ZMI_GPU_ROUTE,
  ZMI_GPU_COMBINE,
  ZMI_GPU_CONV,
  ZMI_GPU_TAKE,
  ZMI_GPU_COPY,
  ZMI_GPU_READY, // of the resident kernel and of bundles only
  ZMI_GPU_SORT,
  ZMI_GPU_MANY,
  ZMI_GPU_KINDS
} zmi_gpu_kind;

// STEP(name, kind) of each kind that can be a launch of its own.
#define ZMI_GPU_STEPS(STEP)                                                                                                                \
  STEP(embed, ZMI_GPU_EMBED)                                                                                                               \
  STEP(norm, ZMI_GPU_NORM)                                                                                                                 \
  STEP(digits, ZMI_GPU_DIGITS)                                                                                                             \
  STEP(dot, ZMI_GPU_DOT)                                                                                                                   \
  STEP(elements, ZMI_GPU_ELEMENTS)                                                                                                         \
  STEP(angles, ZMI_GPU_ANGLES)                                                                                                             \
  STEP(rotate, ZMI_GPU_ROTATE)                                                                                                             \
  STEP(write, ZMI_GPU_WRITE)                                                                                                               \
  STEP(attend, ZMI_GPU_ATTEND)                                                                                                             \
  STEP(join, ZMI_GPU_JOIN)                                                                                                                 \
  STEP(route, ZMI_GPU_ROUTE)                                                                                                               \
  STEP(combine, ZMI_GPU_COMBINE)                                                                                                           \
  STEP(conv, ZMI_GPU_CONV)                                                                                                                 \
  STEP(take, ZMI_GPU_TAKE)                                                                                                                 \
  STEP(copy, ZMI_GPU_COPY)

// The same of those that are only launched: products of many rows would double what the resident kernel takes to be compiled, and it plays
// steps of few rows.
#define ZMI_GPU_LAUNCHED(STEP)                                                                                                             \
  STEP(sort, ZMI_GPU_SORT)                                                                                                                 \
  STEP(many, ZMI_GPU_MANY)

// Packed matrices as in quant.h, `experts` of them one after another.
typedef struct zmi_gpu_matrix {
  zmi_gpu_address packed, bias; // bias: [experts, n] of bias_dtype, or absent
  unsigned long long matrix_bytes;
  unsigned block_bytes, code_bytes; // of a block of 16 rows; of them codes (modes whose scales stand after all codes)
  int n, k, experts;
  int mode, bits, group, dtype, digits; // dtype: of scales and biases, or of float weights; digits: 3, 1, or 0: takes float rows
  int bias_dtype, unused;
} zmi_gpu_matrix;

// out[r] = the row of the table that token[r] names, as floats, rounded to dtype; zeros if it is out of range. Tile: a row.
typedef struct zmi_gpu_embed {
  zmi_gpu_matrix table;
  zmi_gpu_address token, out;
  int rows, dtype;
} zmi_gpu_embed;

// sum[r] = x[r] + add[r], rounded (if there is `add`; else the sum is x); out[r] = rms_norm(sum[r]) * weight, rounded. Tile: a row.
typedef struct zmi_gpu_norm {
  zmi_gpu_address x, add, weight, sum, out;
  int rows, n, dtype, weight_dtype;
  float eps;
  int unused;
} zmi_gpu_norm;

// Rows of floats as digits (zmi_digits_bytes of the backend's header: the same layout). Tile: ZMI_GPU_PIECE elements of a row.
typedef struct zmi_gpu_digits {
  zmi_gpu_address x, out;
  long long stride, bytes; // from row to row of x; of a row of digits
  int rows, k, group, digits, dtype, unused;
} zmi_gpu_digits;

// Products with packed matrices. Pair p < pairs: x row p / share, matrix chosen[p] (0 if absent), result row p, rounded to dtype; zeros if
// chosen[p] is out of range. x: rows of digits or of floats of x_dtype, x_bytes apart; absent: those that READY has made. Tile: pair p,
// block b, as p * blocks + b. `up`, where READY makes the rows: the weights of a second matrix like the first, with which the result is
// round(silu(first)) * second. Only the resident kernel knows the rest: `stage`: weights come through the ring of weights (stream.h), so
// many units at a time; `route`: one more than the number of the ROUTE, every block's own, that chooses; `kept`: every block makes all
// results, and they stay so many bytes behind the beginning of its scratch.
typedef struct zmi_gpu_dot {
  zmi_gpu_matrix matrix;
  zmi_gpu_address x, chosen, out, up;
  long long x_bytes, out_stride;
  int x_dtype, pairs, share, blocks, dtype, route;
  int stage, range_bytes, units, together, kept;
  unsigned by; // of the ring: 2^36 / blocks + 1, so that a quotient of tiles by blocks is a product; or 0
} zmi_gpu_dot;

// Pairs of a product by their experts, for MANY. order: the pairs, those of one expert side by side, in any order. pieces: up to `columns`
// of them that take the same expert; expert -1: those whose choice is out of range; behind the last one `count` is 0. Tile: all of it.
typedef struct zmi_gpu_piece {
  int expert, first, count, unused;
} zmi_gpu_piece;
typedef struct zmi_gpu_sort {
  zmi_gpu_address chosen, order, pieces; // order: [pairs]; pieces: [ZMI_GPU_PIECES]
  int pairs, experts, columns, unused;
} zmi_gpu_sort;

// A DOT of many rows of digits, by tensor cores (many.h). order, pieces: of SORT, absent without `chosen`; most: how many pieces there can
// be. Tile: ZMI_GPU_MANY_BLOCKS blocks of 16 rows of weights for a piece.
typedef struct zmi_gpu_many {
  zmi_gpu_dot dot; // `blocks`: of 16 rows, of the matrix
  zmi_gpu_address order, pieces;
  int most, stages; // stages: steps of k in shared memory
} zmi_gpu_many;

// The short convolution (array/ops/short_conv.c). With parts (first, second, gate: which third of a row of `x`, 3 * channels wide): takes
// round(first * second), and the result, rounded, times gate, rounded, is y. Without (parts = 0): convolves x. Without y only
// the state is written. Tile: ZMI_GPU_CHANNELS channels of all rows.
typedef struct zmi_gpu_conv {
  zmi_gpu_address x, weight, bias, state, position, sequence, y;
  long long x_stride;
  int rows, channels, taps, sequences, parts, first, second, gate, dtype, weight_dtype, bias_dtype, unused;
} zmi_gpu_conv;

// What products take, made by every block for itself in its shared memory: rows of x, with something added first, normalized, as digits (or
// floats of dtype, if digits is 0). Added: a row of `add`, or of the weighted sums of `slots` rows of y (as COMBINE). The sum is rounded,
// and each worker writes a piece of it. If `blocks` is not 0, a worker makes only the rows of its tiles of a product of `tiles` tiles,
// `blocks` a row. If `conv` has a row, the row is what that makes, of three taps and parts, where eight elements come together; it writes
// nothing.
typedef struct zmi_gpu_ready {
  zmi_gpu_address x, add, y, weights, norm, sum;
  zmi_gpu_conv conv;
  long long stride, bytes; // from row to row: elements of x, bytes of what is made
  int rows, k, group, digits, dtype, norm_dtype, slots, blocks, tiles;
  float eps;
} zmi_gpu_ready;

// Element by element over [rows, cols], rows `stride` apart; out is contiguous. Operands widened, the result rounded to dtype.
typedef enum zmi_gpu_element { ZMI_GPU_ADD, ZMI_GPU_MULTIPLY, ZMI_GPU_SILU, ZMI_GPU_GATED } zmi_gpu_element; // gated: round(silu(a)) * b
typedef struct zmi_gpu_elements {
  zmi_gpu_address a, b, out;
  long long rows, cols, a_stride, b_stride;
  int what, dtype;
} zmi_gpu_elements; // tile: ZMI_GPU_PIECE elements of the result

// cosine, sine [rows, pairs] float32 of position[r] * frequency[i], in double (rope_table). Tile: ZMI_GPU_PIECE elements.
typedef struct zmi_gpu_angles {
  zmi_gpu_address position, frequency, cosine, sine;
  int rows, pairs;
} zmi_gpu_angles;

// Heads [rows, heads, dim], rows x_stride apart: normalized and rounded if there is a norm, then the first 2 * pairs elements rotated (if
// there are cosines) and all rounded to out, which is contiguous. In place is allowed. Tile: a head of a row.
typedef struct zmi_gpu_rotate {
  zmi_gpu_address x, norm, cosine, sine, out;
  long long x_stride;
  int rows, heads, dim, pairs, traditional, dtype, norm_dtype;
  float eps;
} zmi_gpu_rotate;

// Caches: keys [sequences, kv_heads, context / 16, dim / 2, 16, 2], values [sequences, kv_heads, context, dim]. Rows whose position or
// sequence is out of range are not written. Tile: a head of a row.
typedef struct zmi_gpu_write {
  zmi_gpu_address from, cache, position, sequence; // from: [rows, kv_heads, dim]
  int rows, kv_heads, dim, context, sequences, dtype, keys, unused;
} zmi_gpu_write;

// Attention. ATTEND: with `split`, for at most 32 rows, a tile for each (row, kv head, range): partial results of the query heads of the kv
// head, partial [rows][heads][ranges][ZMI_GPU_HEAD + dim] floats. Workers share the ranges that rows reach among themselves, not the tiles,
// and the heads if there are more workers. Without: tile (row, kv head) goes through all its ranges and writes out [rows, heads, dim].
// JOIN: tile (row, head): joins the ranges from left to right and writes out. A row that sees nothing gives zeros.
typedef struct zmi_gpu_attention {
  zmi_gpu_address q, keys, values, position, sequence, partial, out;
  int rows, heads, kv_heads, dim, context, sequences, dtype, ranges, split;
  float scale;
} zmi_gpu_attention;

// The router (docs/numerics.md). `kept`: the logits are those that a DOT of every block's own has kept there; `asked`: weights of products
// that come through the ring wait for the choice. Tile: a row.
typedef struct zmi_gpu_route {
  zmi_gpu_address logits, bias, chosen, weights; // bias: float32 [experts] or absent; chosen: int32 [rows, k]; weights: [rows, k] of dtype
  int rows, experts, k, sigmoid, norm, dtype;
  float eps, scale;
  int kept, asked;
} zmi_gpu_route;

// out[r] = the sum over slots of weights[r][s] * y[r][s], fma from 0 in order, rounded. Tile: ZMI_GPU_PIECE elements of a row.
typedef struct zmi_gpu_combine {
  zmi_gpu_address y, weights, out;
  int rows, slots, n, y_dtype, weight_dtype, dtype;
} zmi_gpu_combine;

// out[i] = row index[i] (int32) of x, zeros if out of range; bytes a row (a multiple of 2). Tile: a row.
typedef struct zmi_gpu_take {
  zmi_gpu_address x, index, out;
  long long bytes;
  int rows, there;
} zmi_gpu_take;

// Elements of 1, 2, 4 or 8 bytes in row-major order of `size` from memory of strides (elements). Tile: ZMI_GPU_PIECE elements.
typedef struct zmi_gpu_copy {
  zmi_gpu_address x, out;
  long long count, size[ZMI_GPU_RANK], stride[ZMI_GPU_RANK];
  int rank, bytes;
} zmi_gpu_copy;

// What the host and a play that is going on tell each other, in memory of the host. stop: not 0: the play is to end, with the token at hand
// or, if blocks wait for each other, at once. said: of each token its number, from 1 on, in the upper 32 bits, and its id; -1: no logit is
// finite, so that there is none.
typedef struct zmi_gpu_mail {
  unsigned stop, unused;
  unsigned long long said[ZMI_GPU_SAID];
} zmi_gpu_mail;

// How a token is chosen (lm/lm.h says it exactly). temperature 0: the first of the largest logits. top_k, top_p, min_p: 0: off. Penalties
// are for the latest `window` of the tokens of `seen`, the oldest first, and of those chosen since.
typedef struct zmi_gpu_earlier {
  int token, generated; // generated: by the model, not of the prompt
} zmi_gpu_earlier;
typedef struct zmi_gpu_bias {
  int token;
  float bias;
} zmi_gpu_bias;
typedef struct zmi_gpu_sampling {
  unsigned long long seed;
  float temperature, top_p, min_p;
  int top_k;                  // less than the vocabulary
  float repetition, presence; // 1 and 0: off
  int window, seen_count, biases;
  zmi_gpu_earlier seen[ZMI_GPU_SEEN];
  zmi_gpu_bias bias[ZMI_GPU_BIASES];
} zmi_gpu_sampling;

// A resident play, in device memory. The first two are zero before it. Where the parts of a block's shared memory begin (what a block
// keeps stands first, then scratch of instructions; sizes.h): what READY makes, and the ring of weights of `slots` slots. each:
// blocks of a multiprocessor. stamps: absent, or [blocks][count][2] clocks: when a block began an instruction, behind its barrier, and when
// it was done with it. mail: absent, or that of the host.
// most: 0, or how many steps it plays at most, one after another. Behind each a token is chosen by the logits; the next step takes it and
// comes one position later. It ends behind one of the `ends` ids of `end`. best: ZMI_GPU_CHOICE_WORDS of 8 bytes, zero before the first
// play.
typedef struct zmi_gpu_play {
  unsigned arrived, given_up;
  int ready_at, ring_at, slots, each;
  zmi_gpu_address stamps, mail;
  int most, vocab, dtype, ends;
  int end[ZMI_GPU_ENDS];
  zmi_gpu_address token, position, logits, best;
  zmi_gpu_sampling sampling;
} zmi_gpu_play;

// How the resident kernel plays an instruction: as a launch does, or by code of its own. LATE: weights are asked for when it is at hand.
typedef enum zmi_gpu_how {
  ZMI_GPU_USUAL,
  ZMI_GPU_STREAMED,
  ZMI_GPU_STREAMED_LATE,
  ZMI_GPU_OF_READY, // a product of rows that READY made, whose weights do not come through the ring
  ZMI_GPU_OF_BLOCK  // READY, or a ROUTE of every block's own
} zmi_gpu_how;

typedef struct zmi_gpu_instruction {
  int kind;     // zmi_gpu_kind
  int number;   // of the resident kernel: which one it is, from 0 on
  int barrier;  // reads or overwrites what instructions since the last barrier wrote or read
  int how;      // of the resident kernel: zmi_gpu_how
  int own;      // every block does all of it for itself
  int tiles;    // > 0
  int shared;   // bytes of shared memory that a block needs
  int of_instr; // instruction of the tape that it is part of
  int next;     // the next DOT whose weights come through the ring
  int workers;  // in a bundle: how many of its launch's blocks play it
  union {
    zmi_gpu_embed embed;
    zmi_gpu_norm norm;
    zmi_gpu_digits digits;
    zmi_gpu_dot dot;
    zmi_gpu_elements elements;
    zmi_gpu_angles angles;
    zmi_gpu_rotate rotate;
    zmi_gpu_write write;
    zmi_gpu_attention attention;
    zmi_gpu_route route;
    zmi_gpu_combine combine;
    zmi_gpu_conv conv;
    zmi_gpu_take take;
    zmi_gpu_copy copy;
    zmi_gpu_ready ready;
    zmi_gpu_sort sort;
    zmi_gpu_many many;
  } as;
} zmi_gpu_instruction;

// Instructions of one launch, which need not wait for each other. Of `products` (products.h) a READY, absent or first, is played by all
// blocks that play a DOT; of the others each block plays one. Of `heads` each block plays all of them. made_at: where in shared memory the
// rows of READY begin; stage_at, stage: where weights lie that are asked for before rows are made, and bytes for them.
enum { ZMI_GPU_BUNDLE = 8 };
typedef struct zmi_gpu_bundle {
  int count, made_at, stage_at, stage;
  zmi_gpu_instruction all[ZMI_GPU_BUNDLE];
} zmi_gpu_bundle;

#endif
