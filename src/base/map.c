// Hash table from byte strings to integers: open addressing over an entry list, keys kept one after another in one buffer.
// Keys come from files, so the hash (SipHash-1-3) is keyed at run time: nobody can prepare a file whose names all collide.
#include "base/base.h"

#include <string.h>

typedef struct entry {
  uint64_t hash;
  size_t key, key_size; // place in the key buffer
  int64_t value;
} entry;

struct zmi_map {
  entry *entries;
  size_t count, entry_capacity;
  char *keys;
  size_t keys_size, keys_capacity;
  size_t *slots; // index of an entry + 1; 0 = free
  size_t slot_count; // a power of two, at most half full
  uint64_t seed[2];
};

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static void sip_round(uint64_t v[4]) {
  v[0] += v[1], v[1] = rotate(v[1], 13) ^ v[0], v[0] = rotate(v[0], 32);
  v[2] += v[3], v[3] = rotate(v[3], 16) ^ v[2];
  v[0] += v[3], v[3] = rotate(v[3], 21) ^ v[0];
  v[2] += v[1], v[1] = rotate(v[1], 17) ^ v[2], v[2] = rotate(v[2], 32);
}

static uint64_t hash_bytes(const uint64_t seed[2], const char *key, size_t size) {
  uint64_t v[4] = {0x736f6d6570736575u, 0x646f72616e646f6du, 0x6c7967656e657261u, 0x7465646279746573u};
  for (int i = 0; i < 4; i++) v[i] ^= seed[i & 1];
  uint64_t word;
  size_t i = 0;
  for (; i + 8 <= size; i += 8) {
    memcpy(&word, key + i, 8);
    v[3] ^= word;
    sip_round(v);
    v[0] ^= word;
  }
  word = (uint64_t)size << 56;
  for (size_t j = 0; i + j < size; j++) word |= (uint64_t)(unsigned char)key[i + j] << (8 * j);
  v[3] ^= word;
  sip_round(v);
  v[0] ^= word;
  v[2] ^= 0xff;
  for (int round = 0; round < 3; round++) sip_round(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

zmi_map *zmi_map_new(void) {
  zmi_map *m = zmi_calloc(1, sizeof *m);
  if (!m) return NULL;
  double now = zmi_now();
  memcpy(&m->seed[0], &now, sizeof now);
  m->seed[0] *= 0x9e3779b97f4a7c15u;
  m->seed[1] = (uint64_t)(uintptr_t)m ^ rotate((uint64_t)(uintptr_t)&m, 32);
  return m;
}

void zmi_map_free(zmi_map *m) {
  if (!m) return;
  zmi_free(m->entries);
  zmi_free(m->keys);
  zmi_free(m->slots);
  zmi_free(m);
}

// The slot that holds the key, or the free slot where it would go.
static size_t find_slot(const zmi_map *m, uint64_t hash, const char *key, size_t key_size) {
  size_t mask = m->slot_count - 1, at = (size_t)hash & mask;
  for (; m->slots[at]; at = (at + 1) & mask) {
    const entry *e = &m->entries[m->slots[at] - 1];
    if (e->hash == hash && e->key_size == key_size && (key_size == 0 || memcmp(m->keys + e->key, key, key_size) == 0)) break;
  }
  return at;
}

static bool grow_slots(zmi_map *m) {
  if (m->slot_count > SIZE_MAX / 4) return zmi_calloc(SIZE_MAX, 2) != NULL; // sets the error
  size_t wanted = m->slot_count ? m->slot_count * 2 : 16;
  size_t *slots = zmi_calloc(wanted, sizeof *slots);
  if (!slots) return false;
  for (size_t i = 0; i < m->count; i++) {
    size_t at = (size_t)m->entries[i].hash & (wanted - 1);
    while (slots[at]) at = (at + 1) & (wanted - 1);
    slots[at] = i + 1;
  }
  zmi_free(m->slots);
  m->slots = slots;
  m->slot_count = wanted;
  return true;
}

bool zmi_map_put(zmi_map *m, const char *key, size_t key_size, int64_t value) {
  uint64_t hash = hash_bytes(m->seed, key, key_size);
  if (m->slot_count) {
    size_t at = find_slot(m, hash, key, key_size);
    if (m->slots[at]) {
      m->entries[m->slots[at] - 1].value = value;
      return true;
    }
  }
  if (m->count >= m->slot_count / 2 && !grow_slots(m)) return false;
  if (key_size > SIZE_MAX - m->keys_size) return zmi_calloc(SIZE_MAX, 2) != NULL; // sets the error
  if (!ZMI_GROW(m->keys, m->keys_capacity, m->keys_size + key_size) || !ZMI_GROW(m->entries, m->entry_capacity, m->count + 1)) return false;
  if (key_size) memcpy(m->keys + m->keys_size, key, key_size);
  m->entries[m->count] = (entry){hash, m->keys_size, key_size, value};
  m->keys_size += key_size;
  m->slots[find_slot(m, hash, key, key_size)] = ++m->count;
  return true;
}

bool zmi_map_get(const zmi_map *m, const char *key, size_t key_size, int64_t *value) {
  if (m->count == 0) return false;
  size_t at = find_slot(m, hash_bytes(m->seed, key, key_size), key, key_size);
  if (!m->slots[at]) return false;
  if (value) *value = m->entries[m->slots[at] - 1].value;
  return true;
}

size_t zmi_map_size(const zmi_map *m) { return m->count; }
