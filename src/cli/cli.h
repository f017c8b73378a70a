// The cli room: the command zmlx. A command is one file cmd_<name>.c with one cli_command, and one line in commands.c. From its rows of
// options come parsing, validation, help, shell completion and docs/cli.md.
#ifndef ZMI_CLI_H
#define ZMI_CLI_H

#include "tools/tools.h"

#include <stdio.h>

// ---- the option table (options.c) ----
typedef enum cli_kind {
  CLI_FLAG,
  CLI_INT,    // low..high
  CLI_FLOAT,  // low..high
  CLI_STRING,
  CLI_CHOICE, // value holds the words: "cpu|cuda"
  CLI_PATH,
  CLI_LIST    // a string; the option may be given again
} cli_kind;

typedef struct cli_option {
  const char *name; // without the dashes
  char letter;      // of the short form; 0: none
  cli_kind kind;
  const char *value;    // what help calls the value: "N", "FILE"
  double low, high;     // inclusive; whole numbers up to 2^53
  const char *fallback; // the default as help shows it, and as it is read if it is a number or a word; NULL: none
  const char *help;     // one line
} cli_option;

enum { CLI_OK = 0, CLI_FAILURE = 1, CLI_USAGE = 2, CLI_INTERRUPTED = 130 }; // exit statuses

struct cli_args;
typedef struct cli_command {
  const char *name, *summary;
  const char *arguments;     // "MODEL", "CONFIG_DIR OUT_DIR", "[COMMAND]"; capital words, optional ones in brackets
  const cli_option *options; // ends with a NULL name; NULL: none
  bool model_options;        // also takes cli_model_options
  const char *notes;         // lines below the options; NULL: none
  int (*run)(const struct cli_args *args);
  void (*help)(const struct cli_args *args, zmi_text *out); // for --help behind arguments; NULL: that of the command
} cli_command;

extern const cli_command *const cli_commands[]; // ends with NULL (commands.c)
extern const cli_option cli_model_options[];    // of every command that opens a model (model.c)
extern const cli_option cli_help_option;        // --help, of every command
const cli_command *cli_find_command(const char *name);

typedef struct cli_use {
  const cli_option *option;
  const char *text; // value as given; NULL for flags
  double number;    // INT, FLOAT
} cli_use;

typedef struct cli_args {
  const cli_command *command;
  const char **positional;
  size_t count;
  cli_use *uses; // in order
  size_t use_count;
  bool help;
  int argc; // the whole command line, for capsules
  char **argv;
} cli_args;

// Reads the arguments after the command's name. The message names the option, the value and what is allowed. *args is to be released.
zm_status cli_parse(const cli_command *command, int argc, char **argv, cli_args *args);
void cli_args_release(cli_args *args);
// Checks one value against its row; `number` may be NULL.
zm_status cli_check_value(const cli_option *option, const char *text, double *number);
// The name of the list (ended by NULL) nearest to a misspelt word; NULL if none is near.
const char *cli_nearest(const char *word, const char *(*name)(const void *list, size_t i), const void *list);

// Values by option name; the default where the option was not given. The option must be in the command's table.
bool cli_given(const cli_args *args, const char *name);
bool cli_flag(const cli_args *args, const char *name);
int64_t cli_int(const cli_args *args, const char *name);
double cli_float(const cli_args *args, const char *name);
const char *cli_text(const cli_args *args, const char *name);             // NULL if neither given nor defaulted
const char *cli_item(const cli_args *args, const char *name, size_t i);   // the i-th use of a list; NULL at its end
// The option of a command by position: its own, then those of models, then --help; NULL at the end.
const cli_option *cli_option_at(const cli_command *command, size_t i);

// ---- help (help.c) ----
void cli_help_overview(zmi_text *out);
void cli_help_command(const cli_command *command, zmi_text *out);
void cli_help_model_options(zmi_text *out);
void cli_help_sampling(zmi_text *out);
void cli_help_markdown(zmi_text *out);
// "--name VALUE" as help shows it, with the short form in front if there is one.
void cli_option_usage(const cli_option *option, zmi_text *out);
void cli_help_option_line(const cli_option *option, zmi_text *out);

// ---- terminal (terminal.c) ----
// Standard output. Failures are remembered; cli_finish_output reports them once and gives the exit status: a reader that went away (head)
// is no error.
void cli_write(const void *bytes, size_t size);
void cli_print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_print_text(zmi_text *text); // and releases it; a text that ran out of memory is an error
void cli_print_json(json_t *object); // and releases it
void cli_flush(void);
bool cli_output_failed(void);
int cli_finish_output(int status);
// Standard error: "zmlx: sentence".
void cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_note(const char *format, ...) __attribute__((format(printf, 1, 2))); // a line without prefix, dim on a terminal
int cli_failed(void);                    // prints the library's last error; gives the exit status
int cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2))); // prints the sentence; gives CLI_USAGE
// Escape codes only where `f` is a terminal and NO_COLOR is unset: "" otherwise. style: "bold", "dim", "red", "green", "yellow", "reset".
const char *cli_style(FILE *f, const char *style);
// A zm_progress_fn: one line on standard error, only on a terminal and past one second. Returns false once the user has interrupted.
bool cli_progress(void *user, const char *what, uint64_t done, uint64_t total);
void cli_progress_end(void); // wipes the line
const char *cli_bytes(double bytes, char buffer[32]); // "16.8 MB"
// A table with aligned columns. Cells are separated by tabs, rows by newlines; a column whose heading begins with '>' is set to the right.
void cli_table(const char *text, zmi_text *out);

// ---- interrupts (interrupt.c) ----
// From the start of the program: Ctrl-C and SIGTERM set a flag that progress and token callbacks look at. If the program has not ended
// `grace` seconds later, or at a second Ctrl-C, `last_words` is called on another thread and the process exits with 130 (SIGTERM: 143).
void cli_interrupt_start(void);
bool cli_interrupted(void);
int cli_interrupt_status(void); // 130 or 143
void cli_interrupt_grace(double seconds, void (*last_words)(void));
bool cli_interrupt_claim(void); // true for the first caller: who prints the last words

// ---- models and inputs (model.c) ----
// Opens args->positional[0] with the model options and applies --patch. NULL after the message was printed; *status is the exit status.
zm_model *cli_open_model(const cli_args *args, int *status);
// The same without patching.
zm_model *cli_open_stock_model(const cli_args *args, int *status);
// Names of a comma-separated list of patterns, or none, all. Unknown names are an error that lists the known ones.
zm_status cli_pattern_choice(const char *text, zmi_patterns *patterns);
// A whole file, "-" being standard input.
zm_status cli_read_input(const char *path, char **data, size_t *size);
// Token ids separated by blanks. *ids is released by zm_tokens_free.
zm_status cli_read_tokens(const char *path, int32_t **ids, size_t *count);

#define CLI_END {.name = NULL}

#endif
