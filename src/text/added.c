// Finding added tokens in a text: a trie over their bytes. At each place where one can begin the longest is taken, so the time is linear
// in the text (tokens have a greatest length).
#include "text/internal.h"

#include <string.h>

zm_status zmi_trie_add(zmi_trie *t, const char *key, size_t size, int32_t token, bool *duplicate) {
  *duplicate = false;
  if (t->count == 0) {
    if (!ZMI_GROW(t->nodes, t->capacity, 64)) return zm_last_status();
    t->nodes[t->count++] = (zmi_trie_node){.token = -1}; // 0 stands for none
  }
  uint32_t at = 0;
  for (size_t i = 0; i < size; i++) {
    uint8_t byte = (uint8_t)key[i];
    uint32_t next = i == 0 ? t->first[byte] : t->nodes[at].child;
    while (next && t->nodes[next].byte != byte) next = t->nodes[next].sibling;
    if (!next) {
      if (t->count >= UINT32_MAX || !ZMI_GROW(t->nodes, t->capacity, t->count + 1)) return zm_last_status();
      next = (uint32_t)t->count++;
      t->nodes[next] = (zmi_trie_node){.token = -1, .byte = byte};
      if (i == 0) {
        t->first[byte] = next;
      } else {
        t->nodes[next].sibling = t->nodes[at].child;
        t->nodes[at].child = next;
      }
    }
    at = next;
  }
  *duplicate = t->nodes[at].token >= 0;
  t->nodes[at].token = token;
  return ZM_OK;
}

void zmi_trie_finish(zmi_trie *t) {
  int firsts = 0;
  t->only = -1;
  for (int byte = 0; byte < 256; byte++)
    if (t->first[byte]) t->only = byte, firsts++;
  if (firsts != 1) t->only = -1;
}

int32_t zmi_trie_find(const zmi_trie *t, const char *text, size_t size, size_t from, size_t *start, size_t *end) {
  if (t->count == 0) return -1;
  for (size_t at = from; at < size; at++) {
    if (t->only >= 0) {
      const char *hit = memchr(text + at, t->only, size - at);
      if (!hit) return -1;
      at = (size_t)(hit - text);
    }
    uint32_t node = t->first[(uint8_t)text[at]];
    int32_t best = -1;
    for (size_t i = at; node;) {
      if (t->nodes[node].token >= 0) best = t->nodes[node].token, *end = i + 1;
      if (++i >= size) break;
      node = t->nodes[node].child;
      while (node && t->nodes[node].byte != (uint8_t)text[i]) node = t->nodes[node].sibling;
    }
    if (best >= 0) {
      *start = at;
      return best;
    }
  }
  return -1;
}
