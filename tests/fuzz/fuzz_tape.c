// Any bytes as the text of a tape: refused with a message, or a tape that verifies, whose printed form reads back to the same text, and
// which, if it is small, can be played: shape rules let nothing through that would take a kernel out of its operands.
#include "patch/patch.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_BYTES = 1 << 20, MOST_ELEMENTS = 1 << 16, MOST_INSTRUCTIONS = 256 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must_say_why(void) {
  if (zm_last_status() == ZM_OK || zm_last_error()[0] == 0) abort();
}

static void print_and_read_back(const zmi_tape *tape) {
  zmi_text first = {0}, second = {0};
  if (zmi_tape_verify(tape) != ZM_OK || zmi_tape_print(tape, &first) != ZM_OK) abort();
  zmi_tape *again = zmi_tape_parse(zmi_text_str(&first), first.size, zmi_patch_op_find);
  if (again == NULL || zmi_tape_print(again, &second) != ZM_OK) abort();
  if (first.size != second.size || memcmp(zmi_text_str(&first), zmi_text_str(&second), first.size) != 0) abort();
  zmi_text_release(&first);
  zmi_text_release(&second);
  zmi_tape_free(again);
}

// Offsets and sizes of scratch come from the text and are only checked against the arena: they are planned anew here.
static bool plan_scratch(zmi_tape *t, const zmi_kernels *kernels) {
  for (size_t i = 0; i < t->instr_count; i++) {
    zmi_instr *in = &t->instrs[i];
    zmi_call c = {.op = in->op, .attrs = in->attrs.bytes, .nin = in->nin, .nout = in->nout, .kernels = kernels};
    for (int k = 0; k < in->nin; k++) c.in[k] = in->in[k] < 0 ? NULL : &t->slots[in->in[k]];
    for (int o = 0; o < in->nout; o++) c.out[o] = &t->slots[in->out[o]];
    in->scratch = in->op->scratch ? in->op->scratch(&c) : 0;
    if (in->scratch > MOST_BYTES) return false;
  }
  return true;
}

static bool is_small(const zmi_tape *t) {
  size_t total = 0;
  if (t->instr_count > MOST_INSTRUCTIONS) return false;
  for (size_t i = 0; i < t->slot_count; i++) {
    int64_t count = 1;
    for (int k = 0; k < t->slots[i].type.rank; k++) {
      if (t->slots[i].type.shape[k] > MOST_ELEMENTS) return false;
      count *= ZMI_MAX(t->slots[i].type.shape[k], 1);
      if (count > MOST_ELEMENTS) return false;
    }
    total += t->slots[i].kind == ZMI_SLOT_VIEW ? 0 : t->slots[i].bytes;
  }
  return total <= MOST_BYTES;
}

static bool is_caller_memory(const zmi_slot *s) {
  return s->kind == ZMI_SLOT_WEIGHT || s->kind == ZMI_SLOT_INPUT || s->kind == ZMI_SLOT_STATE;
}

static void play(zmi_tape *t) {
  static zmi_pool *pool;
  const zmi_kernels *kernels = zmi_kernels_find(NULL);
  if (!pool) pool = zmi_pool_new(1);
  if (!pool || !kernels || !is_small(t) || !plan_scratch(t, kernels) || zmi_tape_plan(t) != ZM_OK) return;
  void *arena = aligned_alloc(64, (t->arena_bytes + 64) / 64 * 64);
  for (size_t i = 0; i < t->slot_count; i++) {
    if (is_caller_memory(&t->slots[i])) t->slots[i].data = calloc(t->slots[i].bytes + 1, 1);
  }
  zmi_player *p = zmi_player_new(t, arena, kernels);
  if (p == NULL) abort();
  memset(arena, 0, t->arena_bytes);
  zmi_player_play(p, pool);
  zmi_player_free(p);
  for (size_t i = 0; i < t->slot_count; i++) {
    if (is_caller_memory(&t->slots[i])) free(t->slots[i].data);
  }
  free(arena);
}

// ---- changes that keep the form of the text: half of the fuzzer's changes are to a number or a dtype ----

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak)); // libFuzzer's
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static bool is_token(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z');
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
  static const char *const words[] = {"0",     "1",      "2",      "3",    "4",     "5",     "7",       "8",        "16",
                                      "17",    "32",     "64",     "65",   "100",   "256",   "4097",    "-1",       "bool",
                                      "uint8", "uint32", "uint64", "int8", "int32", "int64", "float16", "bfloat16", "float32"};
  if (!LLVMFuzzerMutate || seed % 2 || size == 0) return LLVMFuzzerMutate ? LLVMFuzzerMutate(data, size, max_size) : size;
  size_t begin = seed / 2 % size;
  while (begin < size && !is_token(data[begin])) begin++;
  while (begin > 0 && is_token(data[begin - 1])) begin--;
  size_t end = begin;
  while (end < size && is_token(data[end])) end++;
  const char *word = words[seed / 2 / size % ZMI_COUNT(words)];
  size_t length = strlen(word);
  if (size - (end - begin) + length > max_size) return size;
  memmove(data + begin + length, data + end, size - end);
  memcpy(data + begin, word, length);
  return size - (end - begin) + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zmi_tape *tape = zmi_tape_parse((const char *)data, size, zmi_patch_op_find);
  if (tape == NULL) {
    must_say_why();
    return 0;
  }
  print_and_read_back(tape);
  play(tape);
  zmi_tape_free(tape);
  return 0;
}
