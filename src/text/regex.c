// Regexes through PCRE2: compiled once when a tokenizer is opened, matched by many threads, each with a matcher of its own.
#include "text/internal.h"

#include <stdio.h>
#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

struct zmi_regex {
  pcre2_code *code;
  bool jit;
};

struct zmi_matcher {
  pcre2_match_data *data;
  pcre2_match_context *context;
};

static void *take(size_t size, void *unused) {
  (void)unused;
  return zmi_malloc(size);
}

static void give(void *p, void *unused) {
  (void)unused;
  zmi_free(p);
}

static zm_status compile(zmi_regex *r, pcre2_general_context *general, const zmi_text *pattern) {
  pcre2_compile_context *context = pcre2_compile_context_create(general);
  if (!context) return ZM_ERROR_MEMORY;
  pcre2_set_newline(context, PCRE2_NEWLINE_LF); // ^, $ and . know one kind of line end
  int code;
  PCRE2_SIZE offset;
  uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  r->code = pcre2_compile((PCRE2_SPTR)zmi_text_str(pattern), pattern->size, options, &code, &offset, context);
  pcre2_compile_context_free(context);
  if (!r->code) {
    if (code == 121) return ZM_ERROR_MEMORY; // its allocation failed and said so
    char message[200];
    pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
    return zmi_fail(ZM_ERROR_UNSUPPORTED, "the pattern is not accepted: %s", message);
  }
  // Without run-time code generation (none in this PCRE2, or forbidden here) matching is slower and nothing else.
  r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
  if (!r->jit) zmi_error_clear();
  return ZM_OK;
}

zmi_regex *zmi_regex_new(const char *pattern, size_t size) {
  zmi_text translated = {0};
  zmi_regex *r = NULL;
  pcre2_general_context *general = NULL;
  zm_status status = zmi_pattern_translate(pattern, size, &translated);
  if (status == ZM_OK) r = zmi_calloc(1, sizeof *r);
  if (r) general = pcre2_general_context_create(take, give, NULL);
  status = general ? compile(r, general, &translated) : zm_last_status();
  pcre2_general_context_free(general);
  zmi_text_release(&translated);
  if (status == ZM_OK) return r;
  zmi_regex_free(r);
  return NULL;
}

void zmi_regex_free(zmi_regex *r) {
  if (!r) return;
  pcre2_code_free(r->code);
  zmi_free(r);
}

zmi_matcher *zmi_matcher_new(size_t text_size) {
  zmi_matcher *m = zmi_calloc(1, sizeof *m);
  pcre2_general_context *general = m ? pcre2_general_context_create(take, give, NULL) : NULL;
  if (general) {
    m->data = pcre2_match_data_create(1, general);
    m->context = m->data ? pcre2_match_context_create(general) : NULL;
  }
  pcre2_general_context_free(general);
  if (m && m->context) {
    // Backtracking over a long input is no reason to fail; a pattern that explodes is. The count starts anew at each place of the text.
    pcre2_set_match_limit(m->context, (uint32_t)ZMI_MIN((size_t)10 * 1000 * 1000 + 20 * text_size, (size_t)UINT32_MAX));
    pcre2_set_depth_limit(m->context, UINT32_MAX);
    pcre2_set_heap_limit(m->context, 4u << 20); // KiB
    return m;
  }
  zmi_matcher_free(m);
  return NULL;
}

void zmi_matcher_free(zmi_matcher *m) {
  if (!m) return;
  pcre2_match_data_free(m->data);
  pcre2_match_context_free(m->context);
  zmi_free(m);
}

static zm_status match_error(int code, size_t from) {
  if (code == PCRE2_ERROR_NOMEMORY)
    return zmi_fail(ZM_ERROR_MEMORY, "out of memory: the pre-tokenizer's pattern needs more at offset %zu of its piece", from);
  if (code == PCRE2_ERROR_MATCHLIMIT || code == PCRE2_ERROR_DEPTHLIMIT || code == PCRE2_ERROR_HEAPLIMIT)
    return zmi_fail(ZM_ERROR_LIMIT, "the pre-tokenizer's pattern gives up at offset %zu of its piece: it tries too many ways to match",
                    from);
  char message[200];
  pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
  return zmi_fail(ZM_ERROR_FORMAT, "the pre-tokenizer's pattern fails at offset %zu of its piece: %s", from, message);
}

zm_status zmi_regex_find(const zmi_regex *r, zmi_matcher *m, const char *text, size_t size, size_t from, bool *found, size_t *start,
                         size_t *end) {
  int code = PCRE2_ERROR_JIT_STACKLIMIT;
  if (r->jit) code = pcre2_jit_match(r->code, (PCRE2_SPTR)text, size, from, 0, m->data, m->context);
  // The generated code's stack is small; the interpreter keeps its own on the heap.
  if (code == PCRE2_ERROR_JIT_STACKLIMIT)
    code = pcre2_match(r->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, m->data, m->context);
  *found = code >= 0;
  if (code == PCRE2_ERROR_NOMATCH) return ZM_OK;
  if (code < 0) return match_error(code, from);
  const PCRE2_SIZE *range = pcre2_get_ovector_pointer(m->data);
  *start = range[0];
  *end = range[1];
  return ZM_OK;
}

zm_status zmi_regex_find_next(const zmi_regex *r, zmi_matcher *m, const char *text, size_t size, size_t *from, size_t *last_end,
                              bool *found, size_t *start, size_t *end) {
  *found = false;
  while (*from <= size) {
    zm_status status = zmi_regex_find(r, m, text, size, *from, found, start, end);
    if (status != ZM_OK || !*found) return status;
    if (*start != *end || *end != *last_end) {
      *from = *last_end = *end;
      return ZM_OK;
    }
    // Step over one character.
    do ++*from;
    while (*from < size && (text[*from] & 0xc0) == 0x80);
    *found = false;
  }
  return ZM_OK;
}
