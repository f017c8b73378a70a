// What the command says and where: standard output with its failures remembered, one-line errors, progress, colours, tables.
#include "cli/cli.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

// ---- standard output ----

static int output_error; // errno of the first failed write

void cli_write(const void *bytes, size_t size) {
  if (output_error || !size) return;
  errno = 0;
  if (fwrite(bytes, 1, size, stdout) != size) output_error = errno ? errno : EIO;
}

void cli_print(const char *format, ...) {
  if (output_error) return;
  va_list args;
  va_start(args, format);
  errno = 0;
  if (vfprintf(stdout, format, args) < 0) output_error = errno ? errno : EIO;
  va_end(args);
}

void cli_print_text(zmi_text *text) {
  if (text->failed && !output_error) output_error = ENOMEM;
  if (text->size) cli_write(text->data, text->size);
  zmi_text_release(text);
}

static int write_json(const char *buffer, size_t size, void *user) {
  (void)user;
  cli_write(buffer, size);
  return output_error ? -1 : 0;
}

void cli_print_json(json_t *object) {
  if (!object && !output_error) output_error = ENOMEM;
  if (object) json_dump_callback(object, write_json, NULL, JSON_INDENT(2) | JSON_REAL_PRECISION(9));
  json_decref(object);
  cli_write("\n", 1);
}

void cli_flush(void) {
  errno = 0;
  if (!output_error && fflush(stdout)) output_error = errno ? errno : EIO;
}

bool cli_output_failed(void) { return output_error != 0; }

int cli_finish_output(int status) {
  cli_flush();
  if (!output_error) return status;
  if (output_error == EPIPE) return status == CLI_FAILURE ? status : CLI_OK;
  cli_error("standard output cannot be written: %s", strerror(output_error));
  return CLI_FAILURE;
}

// ---- standard error ----

static atomic_bool progress_shown; // the thread of interrupt.c may wipe the line too

const char *cli_style(FILE *f, const char *style) {
  static const struct {
    const char *name, *code;
  } styles[] = {{"bold", "\033[1m"},   {"dim", "\033[2m"},     {"red", "\033[31m"},
                {"green", "\033[32m"}, {"yellow", "\033[33m"}, {"reset", "\033[0m"}};
  if (!isatty(fileno(f)) || zmi_env("NO_COLOR")) return "";
  for (size_t i = 0; i < ZMI_COUNT(styles); i++)
    if (strcmp(styles[i].name, style) == 0) return styles[i].code;
  return "";
}

static void say(const char *prefix_style, const char *prefix, const char *text_style, const char *format, va_list args) {
  cli_progress_end();
  const char *reset = cli_style(stderr, "reset");
  if (prefix) fprintf(stderr, "%szmlx:%s %s", cli_style(stderr, prefix_style), reset, prefix);
  fputs(cli_style(stderr, text_style), stderr);
  vfprintf(stderr, format, args);
  fprintf(stderr, "%s\n", reset);
}

void cli_error(const char *format, ...) {
  va_list args;
  va_start(args, format);
  say("red", "", "", format, args);
  va_end(args);
}

void cli_warn(const char *format, ...) {
  va_list args;
  va_start(args, format);
  say("yellow", "warning: ", "", format, args);
  va_end(args);
}

void cli_note(const char *format, ...) {
  va_list args;
  va_start(args, format);
  say("", NULL, "dim", format, args);
  va_end(args);
}

int cli_failed(void) {
  if (zm_last_status() == ZM_ERROR_CANCELLED && cli_interrupted()) {
    if (cli_interrupt_claim()) cli_error("interrupted");
    return cli_interrupt_status();
  }
  const char *message = zm_last_error();
  cli_error("%s", *message ? message : "the work failed without saying why");
  return CLI_FAILURE;
}

int cli_usage(const char *format, ...) {
  va_list args;
  va_start(args, format);
  say("red", "", "", format, args);
  va_end(args);
  return CLI_USAGE;
}

// ---- progress ----

bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total) {
  (void)user;
  static double first, latest;
  static char subject[64];
  double now = zmi_now();
  if (strncmp(subject, what, sizeof subject - 1) != 0) { // each piece of work has its own second
    snprintf(subject, sizeof subject, "%s", what);
    first = now;
  }
  if (cli_interrupted()) return false;
  if (now - first < 1 || now - latest < 0.1 || !isatty(STDERR_FILENO)) return true;
  latest = now;
  progress_shown = true;
  if (total) fprintf(stderr, "\r\033[K%s: %.0f%%", subject, 100.0 * (double)done / (double)total);
  else fprintf(stderr, "\r\033[K%s: %llu", subject, (unsigned long long)done);
  fflush(stderr);
  return true;
}

void cli_progress_end(void) {
  if (!atomic_exchange(&progress_shown, false)) return;
  fputs("\r\033[K", stderr);
  fflush(stderr);
}

// ---- formats ----

const char *cli_bytes(double bytes, char buffer[32]) {
  static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
  size_t unit = 0;
  while (bytes >= 999.95 && unit + 1 < ZMI_COUNT(units)) {
    bytes /= 1000;
    unit++;
  }
  snprintf(buffer, 32, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
  return buffer;
}

enum { MOST_COLUMNS = 16 };

// Columns of a character: bytes that continue one do not count.
static size_t width(const char *cell, size_t size) {
  size_t n = 0;
  for (size_t i = 0; i < size; i++) n += ((unsigned char)cell[i] & 0xC0) != 0x80;
  return n;
}

void cli_table(const char *text, zmi_text *out) {
  size_t widest[MOST_COLUMNS] = {0};
  bool right[MOST_COLUMNS] = {false};
  bool heading = true;
  for (const char *row = text; *row; heading = false) {
    for (size_t column = 0;; column++) {
      size_t size = strcspn(row, "\t\n");
      if (heading && *row == '>' && column < MOST_COLUMNS) right[column] = true;
      size_t w = width(row, size) - (heading && *row == '>');
      if (column < MOST_COLUMNS) widest[column] = ZMI_MAX(widest[column], w);
      row += size;
      if (*row != '\t') break;
      row++;
    }
    row += *row == '\n';
  }
  heading = true;
  for (const char *row = text; *row; heading = false) {
    for (size_t column = 0;; column++) {
      size_t size = strcspn(row, "\t\n");
      const char *cell = heading && *row == '>' ? row + 1 : row;
      size_t bytes = size - (size_t)(cell - row), w = width(cell, bytes);
      size_t pad = column < MOST_COLUMNS && widest[column] > w ? widest[column] - w : 0;
      bool last = row[size] != '\t', to_right = column < MOST_COLUMNS && right[column];
      if (column) zmi_text_add(out, "  ");
      if (to_right) zmi_text_add(out, "%*s", (int)pad, "");
      zmi_text_add_bytes(out, cell, bytes);
      if (!to_right && !last) zmi_text_add(out, "%*s", (int)pad, "");
      row += size;
      if (last) break;
      row++;
    }
    zmi_text_add(out, "\n");
    row += *row == '\n';
  }
}
