// The pre-tokenizer: stages that split a text into pieces, each handing its pieces to the next one and the last to the model. Pieces go
// through depth first, so nothing is collected and the memory does not grow with the text.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1 // memmem
#endif
#include "text/internal.h"

#include <string.h>

// Where a stage is in its text, and the piece that it holds back because what follows may join it.
typedef struct splitter {
  zmi_encoder *e;
  size_t stage;
  const char *text;
  size_t size;
  size_t from, last_end; // of the search for matches
  size_t held_start, held_end;
  bool held, last_flag; // last_flag: the latest span was a match
} splitter;

// The next match at or after s->from; false in *found if there is none.
static zm_status find_regex(splitter *s, const zmi_stage *stage, bool *found, size_t *start, size_t *end) {
  return zmi_regex_find_next(stage->regex, s->e->matcher, s->text, s->size, &s->from, &s->last_end, found, start, end);
}

static zm_status find_string(splitter *s, const zmi_stage *stage, bool *found, size_t *start, size_t *end) {
  const char *hit = memmem(s->text + s->from, s->size - s->from, stage->string, stage->string_size);
  *found = hit != NULL;
  if (!hit) return ZM_OK;
  *start = (size_t)(hit - s->text);
  s->from = *end = *start + stage->string_size;
  return ZM_OK;
}

static void find_char(splitter *s, bool (*is)(uint32_t), bool *found, size_t *start, size_t *end) {
  *found = false;
  for (const char *at = s->text + s->from; at < s->text + s->size && !*found;) {
    *start = (size_t)(at - s->text);
    *found = is(zmi_utf8_next(&at));
    s->from = *end = (size_t)(at - s->text);
  }
}

static zm_status find_digit(splitter *s, const zmi_stage *stage, bool *found, size_t *start, size_t *end) {
  (void)stage;
  find_char(s, zmi_is_numeric, found, start, end);
  return ZM_OK;
}

static zm_status find_white(splitter *s, const zmi_stage *stage, bool *found, size_t *start, size_t *end) {
  (void)stage;
  find_char(s, zmi_is_white, found, start, end);
  return ZM_OK;
}

// Runs of word characters, and runs of characters that are neither those nor white.
static zm_status find_word(splitter *s, const zmi_stage *stage, bool *found, size_t *start, size_t *end) {
  (void)stage;
  int kind = 0; // 1: word, 2: other
  const char *at = s->text + s->from;
  while (at < s->text + s->size) {
    const char *from = at;
    uint32_t c = zmi_utf8_next(&at);
    int is = zmi_is_white(c) ? 0 : zmi_is_word(c) ? 1 : 2;
    if (kind == 0 && is != 0) kind = is, *start = (size_t)(from - s->text);
    if (kind != is) {
      at = from;
      break;
    }
  }
  *found = kind != 0;
  s->from = *end = (size_t)(at - s->text);
  return ZM_OK;
}

static zm_status emit(splitter *s, size_t start, size_t end) {
  return start < end ? zmi_split(s->e, s->stage + 1, s->text + start, end - start) : ZM_OK;
}

static zm_status release_held(splitter *s) {
  if (!s->held) return ZM_OK;
  s->held = false;
  return emit(s, s->held_start, s->held_end);
}

// Takes the next span of the text, a match or what is between matches; spans follow each other without gaps.
static zm_status take_span(splitter *s, zmi_behavior behavior, size_t start, size_t end, bool match) {
  bool joins = false; // the held piece grows by this span
  zm_status status = ZM_OK;
  if (behavior == BEHAVIOR_ISOLATED) return emit(s, start, end);
  if (behavior == BEHAVIOR_REMOVED) return match ? ZM_OK : emit(s, start, end);
  if (behavior == BEHAVIOR_CONTIGUOUS) joins = s->held && match == s->last_flag;
  if (behavior == BEHAVIOR_MERGED_WITH_PREVIOUS) joins = s->held && match && !s->last_flag;
  if (behavior == BEHAVIOR_MERGED_WITH_NEXT) joins = s->held && !match && s->last_flag;
  if (!joins) {
    status = release_held(s);
    s->held = true;
    s->held_start = start;
  }
  s->held_end = end;
  s->last_flag = match;
  return status;
}

static zm_status split_stage(zmi_encoder *e, size_t index, const char *text, size_t size) {
  static zm_status (*const find[])(splitter *, const zmi_stage *, bool *, size_t *, size_t *) = {
    [STAGE_REGEX] = find_regex, [STAGE_STRING] = find_string, [STAGE_DIGITS] = find_digit,
    [STAGE_WORDS] = find_word,  [STAGE_WHITE] = find_white};
  const zmi_stage *stage = &e->t->stages[index];
  splitter s = {.e = e, .stage = index, .text = text, .size = size, .last_end = SIZE_MAX};
  size_t done = 0;
  zm_status status = ZM_OK;
  while (status == ZM_OK) {
    bool found = false;
    size_t start = 0, end = 0;
    status = find[stage->kind](&s, stage, &found, &start, &end);
    if (status != ZM_OK || !found) break;
    if (done < start) status = take_span(&s, stage->behavior, done, start, stage->invert);
    if (status == ZM_OK) status = take_span(&s, stage->behavior, start, end, !stage->invert);
    done = end;
  }
  if (status == ZM_OK && done < size) status = take_span(&s, stage->behavior, done, size, stage->invert);
  return status == ZM_OK ? release_held(&s) : status;
}

zm_status zmi_split(zmi_encoder *e, size_t index, const char *text, size_t size) {
  if (size == 0) return ZM_OK;
  if (index == e->t->stage_count) return zmi_bpe_encode(&e->t->bpe, &e->work, text, size);
  zmi_stage_kind kind = e->t->stages[index].kind;
  if (kind != STAGE_PREFIX_SPACE && kind != STAGE_BYTES) return split_stage(e, index, text, size);
  if (kind == STAGE_PREFIX_SPACE && *text == ' ') return zmi_split(e, index + 1, text, size);
  zmi_buffer *changed = &e->stage_text[index];
  changed->size = 0;
  if (kind == STAGE_BYTES) {
    if (zmi_bytes_to_chars(changed, text, size) != ZM_OK) return ZM_ERROR_MEMORY;
  } else if (!zmi_buffer_add(changed, " ", 1) || !zmi_buffer_add(changed, text, size)) {
    return ZM_ERROR_MEMORY;
  }
  return zmi_split(e, index + 1, changed->data, changed->size);
}
