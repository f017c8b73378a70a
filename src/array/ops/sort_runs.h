// Sorting of runs of elements, a template: included once for each kind of element with
//   ELEMENT      its type
//   NAMED(x)     the name of function x for it
//   BEFORE(a, b) whether a goes before b; no two elements are equal in it
//   DIGIT(e, i)  byte i of the key, 0 the least
// Elements that have the same key come in rising order of place, so a radix sort needs to look at keys only.

static void NAMED(insert)(ELEMENT *x, int64_t n) {
  for (int64_t i = 1; i < n; i++) {
    const ELEMENT e = x[i];
    int64_t at = i;
    for (; at > 0 && BEFORE(e, x[at - 1]); at--) x[at] = x[at - 1];
    x[at] = e;
  }
}

static void NAMED(merge)(const ELEMENT *a, int64_t na, const ELEMENT *b, int64_t nb, ELEMENT *out) {
  int64_t i = 0, j = 0;
  while (i < na && j < nb) {
    const bool second = BEFORE(b[j], a[i]);
    *out++ = second ? b[j] : a[i];
    j += second;
    i += !second;
  }
  memcpy(out, a + i, (size_t)(na - i) * sizeof *a);
  memcpy(out + (na - i), b + j, (size_t)(nb - j) * sizeof *b);
}

static void NAMED(merge_sort)(ELEMENT *x, ELEMENT *work, int64_t n) {
  for (int64_t at = 0; at < n; at += SORT_INSERT) NAMED(insert)(x + at, ZMI_MIN(SORT_INSERT, n - at));
  ELEMENT *from = x, *to = work;
  for (int64_t run = SORT_INSERT; run < n; run *= 2) {
    for (int64_t at = 0; at < n; at += 2 * run) {
      const int64_t middle = ZMI_MIN(n, at + run), last = ZMI_MIN(n, at + 2 * run);
      NAMED(merge)(from + at, middle - at, from + middle, last - middle, to + at);
    }
    ELEMENT *other = from;
    from = to;
    to = other;
  }
  if (from != x) memcpy(x, from, (size_t)n * sizeof *x);
}

static void NAMED(radix_sort)(ELEMENT *x, ELEMENT *work, int64_t n, int bytes) {
  uint32_t count[8][256];
  memset(count, 0, (size_t)bytes * sizeof count[0]);
  for (int64_t i = 0; i < n; i++) {
    for (int b = 0; b < bytes; b++) count[b][DIGIT(x[i], b)]++;
  }
  ELEMENT *from = x, *to = work;
  for (int b = 0; b < bytes; b++) {
    if (count[b][DIGIT(x[0], b)] == (uint64_t)n) continue; // one digit alone
    uint32_t place = 0;
    for (int d = 0; d < 256; d++) {
      const uint32_t here = count[b][d];
      count[b][d] = place;
      place += here;
    }
    for (int64_t i = 0; i < n; i++) to[count[b][DIGIT(from[i], b)]++] = from[i];
    ELEMENT *other = from;
    from = to;
    to = other;
  }
  if (from != x) memcpy(x, from, (size_t)n * sizeof *x);
}

// `placed`: elements come in rising order of place, as a radix sort needs them.
static void NAMED(sort)(ELEMENT *x, ELEMENT *work, int64_t n, int bytes, bool placed) {
  if (n <= SORT_INSERT)
    NAMED(insert)(x, n);
  else if (n <= SORT_MERGE || !placed)
    NAMED(merge_sort)(x, work, n);
  else
    NAMED(radix_sort)(x, work, n, bytes);
}

// The number of splitters that do not come after each element; `splits` is one less than a power of two.
static void NAMED(classify)(const ELEMENT *x, int64_t n, const ELEMENT *splitter, int splits, uint8_t *bucket, uint32_t *count) {
  for (int64_t i = 0; i < n; i++) {
    const ELEMENT e = x[i];
    int at = 0;
    for (int step = (splits + 1) / 2; step > 0; step /= 2) at += BEFORE(e, splitter[at + step - 1]) ? 0 : step;
    bucket[i] = (uint8_t)at;
    count[at]++;
  }
}

// Puts the element that sorting would put there at place kth, those that go before it in front of it. Quickselect without branches in
// its loop; what takes too many rounds is sorted.
static void NAMED(select)(ELEMENT *x, ELEMENT *work, int64_t n, int64_t kth) {
  int64_t first = 0, last = n;
  for (int round = 0; last - first > 2 * SORT_INSERT; round++) {
    if (round == 40) break;
    const int64_t size = last - first;
    ELEMENT sample[SORT_SAMPLE];
    for (int i = 0; i < SORT_SAMPLE; i++) sample[i] = x[first + size * (2 * i + 1) / (2 * SORT_SAMPLE)];
    NAMED(insert)(sample, SORT_SAMPLE);
    // A pivot on the far side of kth, so that the part with it is likely the smaller one.
    const int64_t at = (kth - first) * SORT_SAMPLE / size;
    const ELEMENT pivot = sample[ZMI_MAX(0, ZMI_MIN(at + (2 * at < SORT_SAMPLE ? 1 : -1), SORT_SAMPLE - 1))];
    int64_t split = first;
    for (int64_t i = first; i < last; i++) {
      const ELEMENT e = x[i];
      x[i] = x[split];
      x[split] = e;
      split += BEFORE(e, pivot);
    }
    // [first, split) go before the pivot, which is somewhere behind; if it is the least of all it goes to the front.
    if (split == first) {
      int64_t i = first;
      while (BEFORE(pivot, x[i])) i++;
      x[i] = x[first];
      x[first] = pivot;
      if (kth == first) return;
      first++;
    } else if (kth < split) {
      last = split;
    } else {
      first = split;
    }
  }
  NAMED(sort)(x + first, work, last - first, 0, false);
}

// Keeps elements that may be among the k first of all that were offered: kept[0..returned), room for `room` elements, `have` so far.
// *worst: the k-th so far, once there are k.
static int64_t NAMED(offer)(const ELEMENT *x, int64_t n, ELEMENT *kept, ELEMENT *work, int64_t have, int64_t k, int64_t room,
                            ELEMENT *worst, bool *full) {
  for (int64_t at = 0; at < n; at += SORT_OFFER) {
    const int64_t last = ZMI_MIN(n, at + SORT_OFFER);
    if (*full) {
      for (int64_t i = at; i < last; i++) {
        kept[have] = x[i];
        have += BEFORE(x[i], *worst);
      }
    } else {
      memcpy(kept + have, x + at, (size_t)(last - at) * sizeof *x);
      have += last - at;
    }
    if (have + SORT_OFFER <= room || have < k) continue;
    NAMED(select)(kept, work, have, k - 1);
    have = k;
    *worst = kept[k - 1];
    *full = true;
  }
  return have;
}

// The k first of n elements, in order, to the front.
static void NAMED(first)(ELEMENT *x, ELEMENT *work, int64_t n, int64_t k) {
  if (k < n) NAMED(select)(x, work, n, k - 1);
  NAMED(sort)(x, work, ZMI_MIN(k, n), 0, false);
}

#undef ELEMENT
#undef NAMED
#undef BEFORE
#undef DIGIT
