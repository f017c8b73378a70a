// Several tokens: behind a step of a play the next token is chosen, as the sampler of the CPU chooses it (lm.h): the first of the largest
// logits, or one that is drawn. Each block looks at its share of the vocabulary; what blocks find out they tell each other at barriers.
// Weights are added up as whole numbers, so sums are the same however they are shared out.

// Words of zmi_gpu_play.best: a number of each block in turn, by what it is; then single ones, and the bins.
enum { ZMI_GPU_BEST, ZMI_GPU_TOTAL, ZMI_GPU_LOWEST, ZMI_GPU_TIES, ZMI_GPU_SHARE, ZMI_GPU_PARTS };
enum { ZMI_GPU_STOP, ZMI_GPU_TOKEN, ZMI_GPU_MADE, ZMI_GPU_SINGLE = ZMI_GPU_MADE + ZMI_GPU_SAID }; // MADE: tokens of this play
static_assert(ZMI_GPU_CHOICE_WORDS(7) == 7 * ZMI_GPU_PARTS + ZMI_GPU_SINGLE + ZMI_GPU_TURNS * ZMI_GPU_LISTS * ZMI_GPU_BINS, "their number");

ZMI_INLINE unsigned long long *zmi_gpu_parts(int what) {
  const zmi_gpu_site *s = zmi_gpu_here();
  return zmi_gpu_at<unsigned long long>(s->play->best) + what * s->workers;
}
ZMI_INLINE unsigned long long *zmi_gpu_single(int what) {
  return zmi_gpu_parts(ZMI_GPU_PARTS) + what;
}
ZMI_INLINE unsigned long long *zmi_gpu_bins(int turn) {
  return zmi_gpu_single(ZMI_GPU_SINGLE) + turn * (ZMI_GPU_LISTS * ZMI_GPU_BINS);
}

// ---- what a block finds out ----

// Logits as whole numbers in their order. NaN counts as -infinity, and what is too small to be a normal number as zero.
enum { ZMI_GPU_NO_RANK = 0x007fffff }; // of -infinity
ZMI_INLINE unsigned zmi_gpu_rank(float x) {
  unsigned bits = zk_bits(x);
  const unsigned size = bits & 0x7fffffffu;
  if (size > 0x7f800000u) bits = 0xff800000u;
  if (size < 0x00800000u) bits = 0u;
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
ZMI_INLINE float zmi_gpu_of_rank(unsigned rank) {
  return zk_of_bits(rank >> 31 ? rank & 0x7fffffffu : ~rank);
}

// Ranks of the block's logits that biases and penalties have changed, in shared memory.
typedef struct zmi_gpu_changes {
  unsigned count, unused;
  struct {
    int token;
    unsigned rank;
  } of[ZMI_GPU_CHANGES];
} zmi_gpu_changes;
ZMI_INLINE zmi_gpu_changes *zmi_gpu_changes_here() {
  return (zmi_gpu_changes *)(void *)(zmi_gpu_scratch() + ZMI_GPU_CHOICE_LIST);
}

ZMI_INLINE unsigned zmi_gpu_rank_at(int i) {
  const zmi_gpu_play *p = zmi_gpu_here()->play;
  const zmi_gpu_changes *changes = zmi_gpu_changes_here();
  unsigned rank = zmi_gpu_rank(zmi_gpu_load(p->logits, p->dtype, i));
  for (unsigned j = 0; j < changes->count; j++) rank = changes->of[j].token == i ? changes->of[j].rank : rank;
  return rank;
}

// This block's logits: [first, last), which threads take in turn, or each a piece of its own.
typedef struct zmi_gpu_span {
  int first, last;
} zmi_gpu_span;
ZMI_INLINE zmi_gpu_span zmi_gpu_block_logits() {
  const zmi_gpu_site *s = zmi_gpu_here();
  const int vocab = s->play->vocab;
  return {zmi_gpu_first_tile(vocab, s->worker, s->workers, s->by), zmi_gpu_first_tile(vocab, s->worker + 1, s->workers, s->by)};
}
ZMI_INLINE zmi_gpu_span zmi_gpu_thread_logits() {
  const zmi_gpu_span b = zmi_gpu_block_logits();
  const int each = (b.last - b.first + ZMI_GPU_THREADS - 1) / ZMI_GPU_THREADS, first = b.first + zmi_thread() * each;
  return {first < b.last ? first : b.last, first + each < b.last ? first + each : b.last};
}

ZMI_INLINE unsigned long long zmi_gpu_greater(unsigned long long a, unsigned long long b) {
  return a > b ? a : b;
}
ZMI_INLINE unsigned long long zmi_gpu_shuffle_wide(unsigned long long x, int lane) {
  const unsigned low = zmi_shuffle((unsigned)x, lane), high = zmi_shuffle((unsigned)(x >> 32), lane);
  return (unsigned long long)high << 32 | low;
}
ZMI_INLINE unsigned long long *zmi_gpu_warp_words() { // a number for each warp, in shared memory
  return (unsigned long long *)(void *)zmi_gpu_scratch();
}

// The greatest of the block's, for all threads.
ZMI_APART unsigned long long zmi_gpu_greatest(unsigned long long x) {
  unsigned long long *words = zmi_gpu_warp_words();
  const int lane = zmi_thread() % 32;
  for (int step = 16; step > 0; step /= 2) x = zmi_gpu_greater(x, zmi_gpu_shuffle_wide(x, lane ^ step));
  zmi_sync(); // what lies there has been read
  if (lane == 0) words[zmi_thread() / 32] = x;
  zmi_sync();
  for (int i = 0; i < ZMI_GPU_WARPS; i++) x = zmi_gpu_greater(x, words[i]);
  return x;
}

// The sum of the threads' before this one, and of all of the block's.
ZMI_APART unsigned long long zmi_gpu_before(unsigned long long x, unsigned long long *all) {
  unsigned long long *words = zmi_gpu_warp_words(), sum = x;
  const int lane = zmi_thread() % 32, warp = zmi_thread() / 32;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned long long other = zmi_gpu_shuffle_wide(sum, lane >= step ? lane - step : lane);
    if (lane >= step) sum += other;
  }
  zmi_sync(); // what lies there has been read
  if (lane == 31) words[warp] = sum;
  zmi_sync();
  unsigned long long before = sum - x;
  *all = 0;
  for (int i = 0; i < ZMI_GPU_WARPS; i++) {
    if (i < warp) before += words[i];
    *all += words[i];
  }
  return before;
}

// The same of blocks, behind the barrier after which all have written theirs.
ZMI_APART unsigned long long zmi_gpu_blocks_before(int what, unsigned long long *all) {
  const zmi_gpu_site *s = zmi_gpu_here();
  const unsigned long long *part = zmi_gpu_parts(what);
  unsigned long long sum = 0, early = 0, before;
  for (int i = zmi_thread(); i < s->workers; i += ZMI_GPU_THREADS) {
    sum += part[i];
    if (i < s->worker) early += part[i];
  }
  zmi_gpu_before(early, &before);
  zmi_gpu_before(sum, all);
  return before;
}

ZMI_APART unsigned long long zmi_gpu_greatest_of_blocks(int what) {
  const unsigned long long *part = zmi_gpu_parts(what);
  unsigned long long x = 0;
  for (int i = zmi_thread(); i < zmi_gpu_here()->workers; i += ZMI_GPU_THREADS) x = zmi_gpu_greater(x, part[i]);
  return zmi_gpu_greatest(x);
}

ZMI_INLINE void zmi_gpu_say(int what, unsigned long long x) {
  if (zmi_thread() == 0) zmi_gpu_parts(what)[zmi_gpu_here()->worker] = x;
}

// ---- biases and penalties ----

// Token number i of those that may be changed: of biases, what was seen, what this play has made; -1: none, or not in the window any more.
ZMI_INLINE int zmi_gpu_change(const zmi_gpu_sampling *how, int i, bool *generated) {
  const int made = zmi_gpu_here()->step, early = how->biases + how->seen_count + made - how->window;
  *generated = true;
  if (i < how->biases) return how->bias[i].token;
  if (i < early || (how->repetition == 1.0f && how->presence == 0.0f)) return -1;
  if (i >= how->biases + how->seen_count) return (int)zmi_gpu_single(ZMI_GPU_MADE)[i - how->biases - how->seen_count];
  *generated = how->seen[i - how->biases].generated != 0;
  return how->seen[i - how->biases].token;
}

// The logit of a token with what is added and taken away, in the order of the sampler on the CPU.
ZMI_APART unsigned zmi_gpu_changed(const zmi_gpu_sampling *how, int all, int token) {
  const zmi_gpu_play *p = zmi_gpu_here()->play;
  const float none = zk_of_bits(0xff800000u);
  float x = zmi_gpu_of_rank(zmi_gpu_rank(zmi_gpu_load(p->logits, p->dtype, token)));
  bool seen = false, generated = false, by_model;
  for (int i = 0; i < how->biases; i++) {
    const float bias = how->bias[i].bias;
    if (how->bias[i].token == token && x != none) x = bias == none ? none : x + bias;
  }
  for (int i = how->biases; i < all; i++) {
    if (zmi_gpu_change(how, i, &by_model) != token) continue;
    seen = true;
    generated = generated || by_model;
  }
  if (seen) x = x > 0 ? x / how->repetition : x * how->repetition;
  if (generated) x -= how->presence;
  return zmi_gpu_rank(x);
}

// Lists what is changed of the block's logits.
ZMI_APART void zmi_gpu_list_changes() {
  const zmi_gpu_site *s = zmi_gpu_here();
  const zmi_gpu_sampling *how = &s->play->sampling;
  zmi_gpu_changes *changes = zmi_gpu_changes_here();
  const int all = how->biases + how->seen_count + s->step;
  const zmi_gpu_span mine = zmi_gpu_block_logits();
  if (zmi_thread() == 0) changes->count = 0;
  zmi_sync();
  for (int i = zmi_thread(); i < all; i += ZMI_GPU_THREADS) {
    bool generated, first = true;
    const int token = zmi_gpu_change(how, i, &generated);
    if (token < mine.first || token >= mine.last) continue;
    for (int j = 0; j < i; j++) first = first && zmi_gpu_change(how, j, &generated) != token;
    if (!first) continue;
    const unsigned at = zmi_add_atomic(&changes->count, 1);
    changes->of[at].token = token;
    changes->of[at].rank = zmi_gpu_changed(how, all, token);
  }
  zmi_sync();
}

// ---- weights ----

ZMI_INLINE float zmi_gpu_weight(unsigned rank, float most, float temperature) {
  const float x = zmi_gpu_of_rank(rank);
  if (most == zk_of_bits(0x7f800000u)) return x == most ? 1.0f : 0.0f;
  return zk_exp((x - most) / temperature);
}
ZMI_INLINE unsigned long long zmi_gpu_whole(float weight) {
  return (unsigned long long)(weight * 0x1p40f);
}

// ---- cuts ----
// A cut keeps a beginning of the order of tokens (falling logit, rising index): those above a rank, and of those of this rank the first
// `ties`.
typedef struct zmi_gpu_cut {
  unsigned rank;
  unsigned long long ties;
} zmi_gpu_cut;

// Two lists are searched at once: the first top_k tokens, and those whose weights reach top_p of all. Four bits of the rank a turn: what
// each of 16 bins holds, tokens and weights, among those whose ranks begin as is known by then.
typedef struct zmi_gpu_search {
  bool by_k, by_p;
  unsigned rank[ZMI_GPU_LISTS];
  unsigned long long left[ZMI_GPU_LISTS]; // what is wanted of the tokens that begin so
} zmi_gpu_search;

ZMI_APART void zmi_gpu_fill_bins(const zmi_gpu_search *search, float most, int turn) {
  unsigned long long *words = zmi_gpu_warp_words(), weight[ZMI_GPU_BINS] = {};
  unsigned count[ZMI_GPU_BINS] = {};
  const int t = zmi_thread(), shift = 28 - 4 * turn;
  const unsigned known = turn == 0 ? 0u : ~0u << (shift + 4);
  const zmi_gpu_span mine = zmi_gpu_block_logits();
  for (int i = mine.first + t; i < mine.last; i += ZMI_GPU_THREADS) {
    const unsigned rank = zmi_gpu_rank_at(i);
    const bool in_k = search->by_k && ((rank ^ search->rank[0]) & known) == 0,
               in_p = search->by_p && ((rank ^ search->rank[1]) & known) == 0;
    const unsigned long long w = in_p ? zmi_gpu_whole(zmi_gpu_weight(rank, most, 1.0f)) : 0;
#pragma unroll
    for (int j = 0; j < ZMI_GPU_BINS; j++) {
      const bool here = (int)(rank >> shift & (ZMI_GPU_BINS - 1u)) == j;
      count[j] += here && in_k ? 1u : 0u;
      weight[j] += here ? w : 0;
    }
  }
  zmi_sync(); // what lies there has been read
#pragma unroll
  for (int j = 0; j < ZMI_GPU_BINS; j++) {
    unsigned long long c = count[j], w = weight[j];
    for (int step = 16; step > 0; step /= 2) {
      c += zmi_gpu_shuffle_wide(c, t % 32 ^ step);
      w += zmi_gpu_shuffle_wide(w, t % 32 ^ step);
    }
    if (t % 32 == 0) {
      words[t / 32 * (ZMI_GPU_LISTS * ZMI_GPU_BINS) + j] = c;
      words[t / 32 * (ZMI_GPU_LISTS * ZMI_GPU_BINS) + ZMI_GPU_BINS + j] = w;
    }
  }
  zmi_sync();
  if (t >= ZMI_GPU_LISTS * ZMI_GPU_BINS) return;
  unsigned long long sum = 0;
  for (int i = 0; i < ZMI_GPU_WARPS; i++) sum += words[i * (ZMI_GPU_LISTS * ZMI_GPU_BINS) + t];
  if (sum) zmi_add_atomic_wide(&zmi_gpu_bins(turn)[t], sum);
}

// Four more bits of the ranks: the bin in which what is wanted is reached, from the top.
ZMI_INLINE void zmi_gpu_take_bins(zmi_gpu_search *search, int turn) {
#pragma unroll
  for (int list = 0; list < ZMI_GPU_LISTS; list++) {
    const unsigned long long *bins = zmi_gpu_bins(turn) + list * ZMI_GPU_BINS;
    unsigned long long left = search->left[list];
    int bin = ZMI_GPU_BINS - 1;
    for (; bin > 0 && left > bins[bin]; bin--) left -= bins[bin];
    search->left[list] = left;
    search->rank[list] |= (unsigned)bin << (28 - 4 * turn);
  }
}

ZMI_INLINE unsigned long long zmi_gpu_enough(float p, unsigned long long total) {
  const unsigned long long wanted = (unsigned long long)zmi_multiply_double((double)p, (double)total);
  return wanted < 1 ? 1 : wanted < total ? wanted : total;
}

// All weights and the last rank that min_p keeps. False if the play was given up.
ZMI_APART bool zmi_gpu_weigh(float most, unsigned long long *total, unsigned *lowest) {
  const float least = zmi_gpu_here()->play->sampling.min_p;
  const zmi_gpu_span mine = zmi_gpu_block_logits();
  unsigned long long sum = 0, low = 0, all;
  for (int i = mine.first + zmi_thread(); i < mine.last; i += ZMI_GPU_THREADS) {
    const unsigned rank = zmi_gpu_rank_at(i);
    const float w = zmi_gpu_weight(rank, most, 1.0f);
    sum += zmi_gpu_whole(w);
    if (least > 0 && w >= least) low = zmi_gpu_greater(low, ~rank);
  }
  zmi_gpu_before(sum, &all);
  zmi_gpu_say(ZMI_GPU_TOTAL, all);
  zmi_gpu_say(ZMI_GPU_LOWEST, zmi_gpu_greatest(low));
  if (!zmi_gpu_meet()) return false;
  zmi_gpu_blocks_before(ZMI_GPU_TOTAL, total);
  *lowest = least > 0 ? ~(unsigned)zmi_gpu_greatest_of_blocks(ZMI_GPU_LOWEST) : 0u;
  return true;
}

// What all cuts keep. False if the play was given up.
ZMI_APART bool zmi_gpu_find_cut(float most, zmi_gpu_cut *cut) {
  const zmi_gpu_sampling how = zmi_gpu_here()->play->sampling;
  zmi_gpu_search search = {how.top_k > 0, how.top_p > 0, {0u, 0u}, {(unsigned long long)how.top_k, 0}};
  *cut = {0u, ~0ull};
  if (how.top_p > 0 || how.min_p > 0) {
    unsigned long long total;
    if (!zmi_gpu_weigh(most, &total, &cut->rank)) return false;
    search.left[1] = zmi_gpu_enough(how.top_p, total);
  }
  if (!search.by_k && !search.by_p) return true;
  for (int turn = 0; turn < ZMI_GPU_TURNS; turn++) {
    zmi_gpu_fill_bins(&search, most, turn);
    if (!zmi_gpu_meet()) return false;
    zmi_gpu_take_bins(&search, turn);
  }
  if (search.by_p) { // equal logits weigh the same
    const unsigned long long each = zmi_gpu_whole(zmi_gpu_weight(search.rank[1], most, 1.0f));
    search.left[1] = (search.left[1] + each - 1) / each;
  }
  for (int list = 0; list < ZMI_GPU_LISTS; list++) {
    if (!(list ? search.by_p : search.by_k) || search.rank[list] < cut->rank) continue;
    if (search.rank[list] > cut->rank || search.left[list] < cut->ties) cut->ties = search.left[list];
    cut->rank = search.rank[list];
  }
  return true;
}

// ---- drawing ----

// Philox4x32-10, as zmi_philox in lm/sampling.c: 53 bits.
ZMI_INLINE unsigned long long zmi_gpu_uniform(unsigned long long seed, unsigned position) {
  unsigned c[4] = {position, 0u, 0u, 0u}, k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const unsigned long long p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    const unsigned n0 = (unsigned)(p1 >> 32) ^ c[1] ^ k0, n2 = (unsigned)(p0 >> 32) ^ c[3] ^ k1;
    c[1] = (unsigned)p1;
    c[3] = (unsigned)p0;
    c[0] = n0;
    c[2] = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return ((unsigned long long)c[0] << 32 | c[1]) >> 11;
}

// Kept tokens' weights of this thread's piece up to the one at which their sum exceeds `target` (its index), or all of them (-1). ties: how
// many of the cut's rank are before the piece.
ZMI_APART int zmi_gpu_walk(const zmi_gpu_cut *cut, unsigned long long ties, float most, unsigned long long target,
                           unsigned long long *sum) {
  const float temperature = zmi_gpu_here()->play->sampling.temperature;
  const zmi_gpu_span mine = zmi_gpu_thread_logits();
  *sum = 0;
  for (int i = mine.first; i < mine.last; i++) {
    const unsigned rank = zmi_gpu_rank_at(i);
    if (rank < cut->rank || (rank == cut->rank && ties++ >= cut->ties)) continue;
    *sum += zmi_gpu_whole(zmi_gpu_weight(rank, most, temperature));
    if (*sum > target) return i;
  }
  return -1;
}

// A token by its weight; best: the rank of the largest logit. False if the play was given up.
ZMI_APART bool zmi_gpu_draw(unsigned best, unsigned position, int *id) {
  const float most = zmi_gpu_of_rank(best);
  unsigned long long before, all, sum, ties = 0;
  zmi_gpu_cut cut;
  if (!zmi_gpu_find_cut(most, &cut)) return false;
  if (cut.ties != ~0ull) {
    const zmi_gpu_span mine = zmi_gpu_thread_logits();
    for (int i = mine.first; i < mine.last; i++) ties += zmi_gpu_rank_at(i) == cut.rank ? 1 : 0;
    ties = zmi_gpu_before(ties, &all);
    zmi_gpu_say(ZMI_GPU_TIES, all);
    if (!zmi_gpu_meet()) return false;
    ties += zmi_gpu_blocks_before(ZMI_GPU_TIES, &all);
  }
  zmi_gpu_walk(&cut, ties, most, ~0ull, &sum);
  before = zmi_gpu_before(sum, &all);
  zmi_gpu_say(ZMI_GPU_SHARE, all);
  if (!zmi_gpu_meet()) return false;
  before += zmi_gpu_blocks_before(ZMI_GPU_SHARE, &all);
  const unsigned long long bits = zmi_gpu_uniform(zmi_gpu_here()->play->sampling.seed, position) << 11;
  const unsigned long long target = zmi_multiply_high(all, bits);
  if (before <= target && target < before + sum)
    *zmi_gpu_single(ZMI_GPU_TOKEN) = (unsigned)zmi_gpu_walk(&cut, ties, most, target - before, &sum);
  if (!zmi_gpu_meet()) return false;
  *id = (int)*zmi_gpu_single(ZMI_GPU_TOKEN);
  return true;
}

// ---- the choice ----

// Of this block's share of the logits the greatest rank, and how far from the end of all numbers its index is: the first of equals counts.
ZMI_INLINE unsigned long long zmi_gpu_best_logit() {
  const zmi_gpu_span mine = zmi_gpu_block_logits();
  unsigned long long best = 0;
  for (int i = mine.first + zmi_thread(); i < mine.last; i += ZMI_GPU_THREADS)
    best = zmi_gpu_greater(best, (unsigned long long)zmi_gpu_rank_at(i) << 32 | ~(unsigned)i);
  return best;
}

// Behind a step: chooses the token, if that is asked for. True if one more step follows; all blocks find the same.
ZMI_APART bool zmi_gpu_choose() {
  zmi_gpu_site *s = zmi_gpu_here();
  const zmi_gpu_play *p = s->play;
  const int t = zmi_thread(), worker = s->worker, made = s->step;
  zmi_gpu_mail *mail = zmi_gpu_at<zmi_gpu_mail>(p->mail);
  if (p->most == 0) return false;
  const bool draws = p->sampling.temperature > 0;
  // What the last choice found in the bins has been read: barriers came after it.
  const int bins = worker == 0 && draws ? ZMI_GPU_TURNS * ZMI_GPU_LISTS * ZMI_GPU_BINS : 0;
  for (int i = t; i < bins; i += ZMI_GPU_THREADS) zmi_gpu_bins(0)[i] = 0;
  if (!zmi_gpu_meet()) return false;
  const unsigned stop = worker == 0 && t == 0 && mail ? zmi_look_host(&mail->stop) : 0u;
  const int position = *zmi_gpu_at<const int>(p->position); // before a block that is faster has written the next one
  zmi_gpu_list_changes();
  zmi_gpu_say(ZMI_GPU_BEST, zmi_gpu_greatest(zmi_gpu_best_logit()));
  if (t == 0 && worker == 0) *zmi_gpu_single(ZMI_GPU_STOP) = stop;
  if (!zmi_gpu_meet()) return false;
  const unsigned long long best = zmi_gpu_greatest_of_blocks(ZMI_GPU_BEST);
  const bool stops = *zmi_gpu_single(ZMI_GPU_STOP) != 0;
  int id = (unsigned)(best >> 32) > (unsigned)ZMI_GPU_NO_RANK ? (int)~(unsigned)best : -1;
  if (id >= 0 && draws && !zmi_gpu_draw((unsigned)(best >> 32), (unsigned)position + 1u, &id)) return false;
  bool on = made + 1 < p->most && !stops && id >= 0;
  for (int i = 0; i < p->ends; i++) on = on && id != p->end[i];
  if (t == 0 && worker == 0 && mail) zmi_tell_host(&mail->said[made], (unsigned long long)(made + 1) << 32 | (unsigned)id);
  // Every block writes what it reads itself: all of them write the same.
  if (t == 0 && on) {
    *zmi_gpu_at<int>(p->token) = id;
    *zmi_gpu_at<int>(p->position) = position + 1;
    zmi_gpu_single(ZMI_GPU_MADE)[made] = (unsigned)id;
    s->step = made + 1;
    s->deadline = zmi_nanoseconds() + s->allowed;
  }
  zmi_sync();
  return on;
}
