// Byte pair encoding: the table of merges and the merge loop. Short pieces (nearly all) are merged by looking for the lowest rank again
// and again; long ones keep the candidates in a heap over a linked list, so that the time stays n log n.
#include "text/internal.h"

#include <string.h>

enum { SHORT_SYMBOLS = 40, NONE = UINT32_MAX };

// ---- the table of merges ----

static size_t merge_slot(const zmi_bpe *b, uint64_t pair) {
  uint64_t h = (pair ^ b->seed) * 0x9e3779b97f4a7c15u;
  return (size_t)((h ^ h >> 29) * 0xbf58476d1ce4e5b9u >> b->shift);
}

static const zmi_merge *find_merge(const zmi_bpe *b, int32_t left, int32_t right) {
  uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
  size_t at = merge_slot(b, pair);
  while (b->merges[at].pair != pair) {
    if (b->merges[at].pair == UINT64_MAX) return NULL;
    at = (at + 1) & (b->slots - 1);
  }
  return &b->merges[at];
}

static bool bad_merge(const zmi_json *doc, size_t index, const zmi_json_node *node, const char *expected, zm_status *status) {
  char where[48] = "model.merges[";
  size_t at = strlen(where), digits = 1;
  for (size_t n = index; n >= 10; n /= 10) digits++;
  for (size_t i = 0, n = index; i < digits; i++, n /= 10) where[at + digits - 1 - i] = (char)('0' + n % 10);
  where[at + digits] = ']';
  where[at + digits + 1] = 0;
  *status = zmi_json_fail(doc, where, NULL, node, expected);
  return false;
}

// The two halves of an entry: ["a", "b"] or "a b".
static bool read_halves(const zmi_json *doc, const zmi_json_node *entry, size_t index, const char *text[2], size_t size[2],
                        zm_status *status) {
  if (entry->type == JSON_STRING) {
    const char *space = memchr(entry->text, ' ', entry->size);
    size_t left = space ? (size_t)(space - entry->text) : 0;
    if (!space || memchr(space + 1, ' ', entry->size - left - 1))
      return bad_merge(doc, index, entry, "two tokens with one space between them", status);
    text[0] = entry->text, size[0] = left;
    text[1] = space + 1, size[1] = entry->size - left - 1;
  } else {
    const zmi_json_node *half = zmi_json_child(doc, entry);
    if (entry->type != JSON_ARRAY || entry->count != 2) return bad_merge(doc, index, entry, "an array of two tokens, or a string", status);
    for (int i = 0; i < 2; i++, half = zmi_json_next(doc, half)) {
      if (half->type != JSON_STRING) return bad_merge(doc, index, half, "an array of two strings", status);
      text[i] = half->text, size[i] = half->size;
    }
  }
  return size[0] && size[1] ? true : bad_merge(doc, index, entry, "two tokens that are not empty", status);
}

// Ids of the halves and of what they make.
static bool find_ids(zmi_bpe *b, const zmi_json *doc, size_t index, const zmi_json_node *entry, int64_t id[3], zm_status *status,
                     zmi_buffer *joined) {
  const char *text[2] = {NULL, NULL};
  size_t size[2] = {0, 0};
  if (!read_halves(doc, entry, index, text, size, status)) return false;
  joined->size = 0;
  if (!zmi_buffer_add(joined, text[0], size[0]) || !zmi_buffer_add(joined, text[1], size[1])) {
    *status = ZM_ERROR_MEMORY;
    return false;
  }
  for (int i = 0; i < 2; i++)
    if (!zmi_map_get(b->vocab, text[i], size[i], &id[i]))
      return bad_merge(doc, index, entry, i == 0 ? "a first half that is in the vocabulary" : "a second half that is in the vocabulary",
                       status);
  if (zmi_map_get(b->vocab, joined->data, joined->size, &id[2])) return true;
  return bad_merge(doc, index, entry, "halves whose union is in the vocabulary", status);
}

zm_status zmi_bpe_make_merges(zmi_bpe *b, const zmi_json *doc, const zmi_json_node *merges) {
  size_t slots = 16, index = 0;
  uint32_t rank = 0;
  while (slots < (size_t)merges->count * 2) slots *= 2;
  b->merges = zmi_malloc(slots * sizeof *b->merges);
  if (!b->merges) return ZM_ERROR_MEMORY;
  memset(b->merges, 0xff, slots * sizeof *b->merges);
  b->slots = slots;
  b->shift = 64;
  for (size_t n = slots; n > 1; n /= 2) b->shift--;
  b->seed = (uint64_t)(uintptr_t)b->merges * 0xd6e8feb86659fd93u; // nobody can prepare a file whose pairs all collide
  zmi_buffer joined = {0};
  zm_status status = ZM_OK;
  for (const zmi_json_node *entry = zmi_json_child(doc, merges); entry; entry = zmi_json_next(doc, entry), index++) {
    if (entry->type == JSON_STRING && entry->size >= 8 && memcmp(entry->text, "#version", 8) == 0)
      continue; // a line of old files, not counted
    int64_t id[3];
    if (!find_ids(b, doc, index, entry, id, &status, &joined)) break;
    uint64_t pair = (uint64_t)id[0] << 32 | (uint64_t)id[1];
    size_t at = merge_slot(b, pair);
    while (b->merges[at].pair != UINT64_MAX && b->merges[at].pair != pair) at = (at + 1) & (slots - 1);
    b->merges[at] = (zmi_merge){pair, rank++, (int32_t)id[2]}; // of equal pairs the last one counts
  }
  zmi_free(joined.data);
  return status;
}

void zmi_bpe_release(zmi_bpe *b) {
  zmi_map_free(b->vocab);
  zmi_free(b->merges);
  zmi_free(b->unknown_name);
  *b = (zmi_bpe){0};
}

// ---- pieces seen lately ----

enum { CACHE_KEY = 24, CACHE_IDS = 9, CACHE_ENTRIES = 4096 };
// A cache line: the piece (its last byte is its size, so it has at most 23), and its ids.
typedef struct cache_entry {
  uint8_t key[CACHE_KEY];
  uint32_t count;
  int32_t ids[CACHE_IDS];
} cache_entry;
struct zmi_word_cache {
  cache_entry entries[CACHE_ENTRIES];
};

zmi_word_cache *zmi_word_cache_new(void) { return zmi_calloc(1, sizeof(zmi_word_cache)); }

static cache_entry *cache_place(zmi_word_cache *c, const char *piece, size_t size, uint8_t key[CACHE_KEY]) {
  uint64_t word[3] = {0};
  memcpy(word, piece, size);
  memcpy(key, word, CACHE_KEY - 1);
  key[CACHE_KEY - 1] = (uint8_t)size;
  uint64_t h = (word[0] ^ size) * 0x9e3779b97f4a7c15u;
  h = (h ^ h >> 32 ^ word[1]) * 0xbf58476d1ce4e5b9u;
  h = (h ^ h >> 32 ^ word[2]) * 0x94d049bb133111ebu;
  return &c->entries[h >> 52 & (CACHE_ENTRIES - 1)];
}

void zmi_bpe_work_release(zmi_bpe_work *w) {
  zmi_free(w->symbols);
  zmi_free(w->links);
  zmi_free(w->heap);
  zmi_free(w->cache);
  zmi_free(w->mapped.data);
}

// ---- symbols of a piece ----

static bool put_id(zmi_bpe_work *w, int32_t id) {
  if (w->count >= w->capacity && !ZMI_GROW(w->ids, w->capacity, w->count + 1)) return false;
  w->ids[w->count++] = id;
  return true;
}

// The unknown token while it waits: neighbours may be fused into it.
typedef struct symbol_list {
  const zmi_bpe *b;
  zmi_bpe_work *w;
  size_t count;
  bool unknown_waits;
} symbol_list;

static void put_symbol(symbol_list *s, int32_t id) { s->w->symbols[s->count++] = id; }

// One character (as the vocabulary writes it) that may be unknown. A waiting unknown token is put before the next known one, but behind
// byte tokens: so does the reference.
static zm_status add_char(symbol_list *s, const char *text, size_t size) {
  const zmi_bpe *b = s->b;
  int64_t id;
  if (zmi_map_get(b->vocab, text, size, &id)) {
    if (s->unknown_waits) put_symbol(s, b->unknown);
    s->unknown_waits = false;
    put_symbol(s, (int32_t)id);
    return ZM_OK;
  }
  bool all = true;
  for (size_t i = 0; i < size; i++) all = all && b->fallback_ids[(uint8_t)text[i]] >= 0;
  if (all) {
    for (size_t i = 0; i < size; i++) put_symbol(s, b->fallback_ids[(uint8_t)text[i]]);
    return ZM_OK;
  }
  if (!b->has_unknown) return ZM_OK; // such characters vanish
  if (b->unknown < 0)
    return zmi_fail(ZM_ERROR_FORMAT,
                    "tokenizer: the text has the character \"%.*s\", which needs the unknown token \"%.*s\", which the vocabulary lacks",
                    (int)size, text, 60, b->unknown_name);
  if (s->unknown_waits && !b->fuse_unknown) put_symbol(s, b->unknown);
  s->unknown_waits = true;
  return ZM_OK;
}

// Fills w->symbols; *count is how many.
static zm_status make_symbols(const zmi_bpe *b, zmi_bpe_work *w, const char *piece, size_t size, size_t *count) {
  symbol_list s = {b, w, 0, false};
  // A character gives at most as many symbols as it has bytes (two where a byte's own character falls back), plus a waiting unknown one.
  if (size > UINT32_MAX / 4) return zmi_fail(ZM_ERROR_LIMIT, "tokenizer: a piece of %zu bytes without a split is too long", size);
  if (!ZMI_GROW(w->symbols, w->symbol_capacity, size * 2 + 2)) return ZM_ERROR_MEMORY;
  zm_status status = ZM_OK;
  for (const char *at = piece, *end = piece + size; at < end && status == ZM_OK;) {
    if (b->bytes) {
      uint8_t byte = (uint8_t)*at++;
      if (b->byte_ids[byte] >= 0 && !s.unknown_waits) {
        put_symbol(&s, b->byte_ids[byte]);
      } else {
        char written[4];
        status = add_char(&s, written, zmi_utf8_put(zmi_byte_char(byte), written));
      }
    } else {
      const char *from = at;
      zmi_utf8_next(&at);
      status = add_char(&s, from, (size_t)(at - from));
    }
  }
  if (s.unknown_waits) put_symbol(&s, b->unknown);
  *count = s.count;
  return status;
}

// ---- the merge loops: w->symbols[0..count) become fewer; the new count is returned ----

static size_t merge_short(const zmi_bpe *b, int32_t *id, size_t count) {
  uint32_t rank[SHORT_SYMBOLS];
  int32_t made[SHORT_SYMBOLS]; // rank and result of the pair that begins at each symbol
  for (size_t i = 0; i + 1 < count; i++) {
    const zmi_merge *m = find_merge(b, id[i], id[i + 1]);
    rank[i] = m ? m->rank : NONE;
    made[i] = m ? m->id : 0;
  }
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; i++)
      if (rank[i] < rank[best]) best = i;
    if (rank[best] == NONE) break;
    id[best] = made[best];
    count--;
    size_t rest = count - best - 1; // symbols behind the merged pair
    memmove(id + best + 1, id + best + 2, rest * sizeof *id);
    if (rest > 0) {
      memmove(rank + best + 1, rank + best + 2, (rest - 1) * sizeof *rank);
      memmove(made + best + 1, made + best + 2, (rest - 1) * sizeof *made);
      const zmi_merge *m = find_merge(b, id[best], id[best + 1]);
      rank[best] = m ? m->rank : NONE;
      made[best] = m ? m->id : 0;
    }
    if (best > 0) {
      const zmi_merge *m = find_merge(b, id[best - 1], id[best]);
      rank[best - 1] = m ? m->rank : NONE;
      made[best - 1] = m ? m->id : 0;
    }
  }
  return count;
}

// A heap of rank << 32 | place with four children a node: lowest rank first, leftmost of equals.
static void heap_push(uint64_t *heap, size_t *size, uint64_t value) {
  size_t at = (*size)++;
  while (at > 0 && heap[(at - 1) / 4] > value) {
    heap[at] = heap[(at - 1) / 4];
    at = (at - 1) / 4;
  }
  heap[at] = value;
}

static void heap_sink(uint64_t *heap, size_t size, size_t at) {
  uint64_t value = heap[at];
  for (;;) {
    size_t child = at * 4 + 1, least = child, end = ZMI_MIN(child + 4, size);
    if (child >= size) break;
    for (size_t i = child + 1; i < end; i++)
      if (heap[i] < heap[least]) least = i;
    if (heap[least] >= value) break;
    heap[at] = heap[least];
    at = least;
  }
  heap[at] = value;
}

static zm_status merge_long(const zmi_bpe *b, zmi_bpe_work *w, size_t *symbols) {
  size_t count = *symbols, size = 0;
  int32_t *id = w->symbols;
  // Each merge takes away one symbol and adds at most two candidates.
  if (!ZMI_GROW(w->links, w->link_capacity, count * 2) || !ZMI_GROW(w->heap, w->heap_capacity, count * 3)) return ZM_ERROR_MEMORY;
  uint32_t *previous = w->links, *next = w->links + count;
  uint64_t *heap = w->heap;
  for (size_t i = 0; i < count; i++) {
    previous[i] = i ? (uint32_t)i - 1 : NONE;
    next[i] = i + 1 < count ? (uint32_t)i + 1 : NONE;
    const zmi_merge *m = i + 1 < count ? find_merge(b, id[i], id[i + 1]) : NULL;
    if (m) heap[size++] = (uint64_t)m->rank << 32 | i;
  }
  for (size_t i = size / 4 + 1; i-- > 0;)
    if (i < size) heap_sink(heap, size, i);
  while (size > 0) {
    uint32_t rank = (uint32_t)(heap[0] >> 32), at = (uint32_t)heap[0];
    heap[0] = heap[--size];
    if (size > 1) heap_sink(heap, size, 0);
    if (id[at] < 0 || next[at] == NONE) continue; // merged away since
    uint32_t right = next[at];
    const zmi_merge *m = find_merge(b, id[at], id[right]);
    if (!m || m->rank != rank) continue; // another pair since
    id[at] = m->id;
    id[right] = -1;
    next[at] = next[right];
    if (next[at] != NONE) previous[next[at]] = at;
    const zmi_merge *before = previous[at] != NONE ? find_merge(b, id[previous[at]], id[at]) : NULL;
    if (before) heap_push(heap, &size, (uint64_t)before->rank << 32 | previous[at]);
    const zmi_merge *after = next[at] != NONE ? find_merge(b, id[at], id[next[at]]) : NULL;
    if (after) heap_push(heap, &size, (uint64_t)after->rank << 32 | at);
  }
  size_t left = 0;
  for (size_t i = 0; i < count; i++)
    if (id[i] >= 0) id[left++] = id[i];
  *symbols = left;
  return ZM_OK;
}

static zm_status encode_piece(const zmi_bpe *b, zmi_bpe_work *w, const char *piece, size_t size) {
  if (b->ignore_merges) {
    int64_t id;
    const char *key = piece;
    size_t key_size = size;
    if (b->bytes) {
      w->mapped.size = 0;
      if (zmi_bytes_to_chars(&w->mapped, piece, size) != ZM_OK) return ZM_ERROR_MEMORY;
      key = w->mapped.data, key_size = w->mapped.size;
    }
    if (zmi_map_get(b->vocab, key, key_size, &id)) return put_id(w, (int32_t)id) ? ZM_OK : ZM_ERROR_MEMORY;
  }
  size_t count = 0;
  zm_status status = make_symbols(b, w, piece, size, &count);
  if (status != ZM_OK) return status;
  if (count <= SHORT_SYMBOLS) count = merge_short(b, w->symbols, count);
  else status = merge_long(b, w, &count);
  if (status != ZM_OK || !ZMI_GROW(w->ids, w->capacity, w->count + count)) return ZM_ERROR_MEMORY;
  if (count) memcpy(w->ids + w->count, w->symbols, count * sizeof *w->ids);
  w->count += count;
  return ZM_OK;
}

zm_status zmi_bpe_encode(const zmi_bpe *b, zmi_bpe_work *w, const char *piece, size_t size) {
  if (!w->cache || size >= CACHE_KEY || size == 0) return size ? encode_piece(b, w, piece, size) : ZM_OK;
  uint8_t key[CACHE_KEY];
  cache_entry *entry = cache_place(w->cache, piece, size, key);
  if (memcmp(entry->key, key, CACHE_KEY) == 0) {
    if (!ZMI_GROW(w->ids, w->capacity, w->count + CACHE_IDS)) return ZM_ERROR_MEMORY;
    memcpy(w->ids + w->count, entry->ids, sizeof entry->ids);
    w->count += entry->count;
    return ZM_OK;
  }
  size_t before = w->count;
  zm_status status = encode_piece(b, w, piece, size);
  size_t count = w->count - before;
  if (status != ZM_OK || count > CACHE_IDS) return status;
  memcpy(entry->key, key, CACHE_KEY);
  entry->count = (uint32_t)count;
  if (count) memcpy(entry->ids, w->ids + before, count * sizeof *entry->ids);
  return ZM_OK;
}
