// Operands for a row of the catalog, as its sample says: operands are separated by semicolons, each a name, its dims, then words: a dtype
// (none: the float dtype that was asked for), `positive`, `fixed` (its dims are what the kernel insists on), `grows` (its first dim may
// grow where operands do not share it), or `< n` for integers below n. Numbers follow from their place alone.
#include "catalog/catalog.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

// A number that depends on nothing but its place.
static uint32_t scrambled(uint64_t i) {
  i = (i + 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  i = (i ^ i >> 27) * 0x94d049bb133111ebu;
  return (uint32_t)(i >> 32);
}

typedef struct operand {
  zm_dtype dtype;
  int rank;
  int64_t shape[ZM_MAX_RANK], below;
  bool positive, fixed, grows;
} operand;

static bool word_of(const char **s, char word[32]) {
  size_t n = 0;
  while (**s == ' ') (*s)++;
  if (!**s || **s == ';') return false;
  for (; **s && **s != ' ' && **s != ';'; (*s)++) {
    if (n + 1 < 32) word[n++] = **s;
  }
  word[n] = 0;
  return true;
}

static bool parse(const char **s, zm_dtype dtype, operand *o) {
  char word[32];
  *o = (operand){.dtype = dtype};
  if (!word_of(s, word)) return false; // the name
  while (word_of(s, word)) {
    if (isdigit((unsigned char)word[0]) && o->rank < ZM_MAX_RANK)
      o->shape[o->rank++] = strtoll(word, NULL, 10);
    else if (strcmp(word, "positive") == 0)
      o->positive = true;
    else if (strcmp(word, "fixed") == 0)
      o->fixed = true;
    else if (strcmp(word, "grows") == 0)
      o->grows = true;
    else if (strcmp(word, "<") == 0 && word_of(s, word))
      o->below = strtoll(word, NULL, 10);
    else if ((o->dtype = zm_dtype_from_name(word)) == ZM_DTYPE_DEFAULT)
      return false;
  }
  if (**s == ';') (*s)++;
  return true;
}

static zm_array *fill(const operand *o, uint64_t seed) {
  int64_t count = 1;
  for (int i = 0; i < o->rank; i++) count *= o->shape[i];
  bool real = o->dtype == ZM_F16 || o->dtype == ZM_BF16 || o->dtype == ZM_F32;
  size_t size = real ? sizeof(float) : zm_dtype_size(o->dtype);
  char *data = zmi_malloc((size_t)count * size + 1);
  if (!data) return NULL;
  for (int64_t i = 0; i < count; i++) {
    uint32_t r = scrambled(seed << 40 | (uint64_t)i);
    if (real) {
      // All bits of a float32, so that each rounding shows: with fewer, products and sums would be exact in any order.
      const float v = (float)(r >> 8) * 0x1p-22f - (o->positive ? 0 : 2);
      memcpy(data + (size_t)i * size, &v, sizeof v);
    } else {
      uint64_t v = o->dtype == ZM_BOOL ? r >> 31 : o->below ? r % (uint64_t)o->below : r;
      memcpy(data + (size_t)i * size, &v, size); // little endian
    }
  }
  zm_array *a = zm_array_from_data(data, real ? ZM_F32 : o->dtype, o->shape, o->rank);
  zmi_free(data);
  if (a && real && o->dtype != ZM_F32) {
    a = zm_astype(a, o->dtype);
    if (a && zm_eval(&a, 1) != ZM_OK) a = NULL;
  }
  return a;
}

// Smaller or larger by the first dimension where all operands share it, or are vectors of the last axis; larger also where the row says so.
static void fit(operand *all, int count, int64_t elements) {
  const int64_t first = all[0].rank > 1 ? all[0].shape[0] : 0, last = all[0].rank > 0 ? all[0].shape[all[0].rank - 1] : 0;
  int64_t size = 1, halves = first;
  bool shared = first > 0, grows[ZMI_CATALOG_IN]; // not: vectors of the last axis, whose length may be the first one's on the way
  if (elements <= 0) return;
  for (int i = 0; i < count; i++) {
    grows[i] = !(all[i].rank == 1 && all[i].shape[0] == last);
    shared = shared && !all[i].fixed && all[i].rank > 0 && (all[i].shape[0] == first || !grows[i]);
  }
  for (int i = 0; i < all[0].rank; i++) size *= all[0].shape[i];
  for (; shared && size > elements && halves % 2 == 0; size /= 2, halves /= 2) {
    for (int i = 0; i < count; i++) {
      if (grows[i]) all[i].shape[0] /= 2;
    }
  }
  for (int i = 0; i < count && !shared; i++) grows[i] = all[i].grows;
  for (; size > 0 && (shared || all[0].grows) && size <= elements / 2; size *= 2) {
    for (int i = 0; i < count; i++) {
      if (grows[i]) all[i].shape[0] *= 2;
    }
  }
}

int zmi_entry_sample(const zmi_entry *e, zm_dtype dtype, int64_t elements, zm_array **in) {
  operand all[ZMI_CATALOG_IN];
  int count = 0;
  const char *s = e->sample;
  while (s && *s && count < ZMI_CATALOG_IN && parse(&s, dtype, &all[count])) count++;
  if (!s || *s || count == 0) {
    zmi_fail(ZM_ERROR_ARGUMENT, "%s: the row has no sample operands", e->name);
    return -1;
  }
  fit(all, count, elements);
  for (int i = 0; i < count; i++) {
    if (!(in[i] = fill(&all[i], (uint64_t)i + 1))) return -1;
  }
  return count;
}
