// The command: consistency of the option table, parsing, and the program itself: every kind of error with its exit status, Ctrl-C, a closed
// pipe, colours, help that fits a screen, completion.
#define _GNU_SOURCE // posix_openpt
#include "cli/kernel.h"
#include "watched.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define MODEL "checkpoints/storyteller-4bit"
static char program[4096], scratch[64] = "/tmp/zmlx-cli-XXXXXX";

// The path of a name in the scratch folder; the same string for the same name.
static const char *in_scratch(const char *name) {
  static char paths[64][256];
  char path[256];
  snprintf(path, sizeof path, "%s/%s", scratch, name);
  size_t i = 0;
  while (i < 63 && paths[i][0] && strcmp(paths[i], path) != 0) i++;
  return memcpy(paths[i], path, sizeof path);
}

static const char *file_with(const char *name, const char *text) {
  const char *path = in_scratch(name);
  FILE *f = fopen(path, "wb");
  assert_non_null(f);
  fputs(text, f);
  fclose(f);
  return path;
}

static int set_up(void **state) {
  (void)state;
  const char *build = getenv("TEST_BUILD");
  snprintf(program, sizeof program, "%s/zmlx", build ? build : "build");
  // The thread sanitizer sleeps a second at exit unless told not to, and the time of exits is measured here.
  char options[512];
  const char *given = getenv("TSAN_OPTIONS");
  snprintf(options, sizeof options, "%.400s:atexit_sleep_ms=0", given ? given : "");
  setenv("TSAN_OPTIONS", options, 1);
  return mkdtemp(scratch) ? 0 : -1;
}

static int tear_down(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "rm -rf %s", scratch);
  return system(command);
}

// ---- running the program ----

typedef struct result {
  int status; // exit status; 128 + n if signal n ended it
  char out[1 << 16], err[1 << 14];
} result;

static void read_back(const char *name, char *text, size_t capacity) {
  FILE *f = fopen(in_scratch(name), "rb");
  size_t n = f ? fread(text, 1, capacity - 1, f) : 0;
  text[n] = 0;
  if (f) fclose(f);
}

// Starts the program with its standard streams on the given descriptors (-1: the null device). The words end with NULL.
static pid_t start(char *const *words, int in, int out, int err) {
  fflush(NULL);
  pid_t pid = fork();
  if (pid) return pid;
  int null = open("/dev/null", O_RDWR);
  dup2(in < 0 ? null : in, 0);
  dup2(out < 0 ? null : out, 1);
  dup2(err < 0 ? null : err, 2);
  for (int fd = 3; fd < 64; fd++) close(fd);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  execvp(words[0], words);
  _exit(127);
}

static int finish(pid_t pid) {
  int status;
  while (waitpid(pid, &status, 0) < 0) assert_int_equal(errno, EINTR);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static const result *run_words(char *const *words) {
  static result r;
  int out = open(in_scratch("out"), O_RDWR | O_CREAT | O_TRUNC, 0600), err = open(in_scratch("err"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  r.status = finish(start(words, -1, out, err));
  close(out);
  close(err);
  read_back("out", r.out, sizeof r.out);
  read_back("err", r.err, sizeof r.err);
  return &r;
}

// run("generate", MODEL, "-n", "5", NULL)
static const result *run(const char *first, ...) {
  char *words[32] = {program, (char *)(uintptr_t)first};
  va_list list;
  va_start(list, first);
  for (size_t n = 2; n < 31 && (words[n] = va_arg(list, char *)); n++) {
  }
  va_end(list);
  return run_words(words);
}

static void assert_fails(const result *r, int status, const char *says) {
  size_t lines = 0;
  for (const char *p = r->err; *p; p++) lines += *p == '\n';
  bool fine = r->status == status && strncmp(r->err, "zmlx: ", 6) == 0 && strstr(r->err, says) && lines == 1 && !r->out[0];
  if (!fine)
    fail_msg("expected status %d and one line with \"%s\"; got status %d, out \"%.80s\", err: %s", status, says, r->status, r->out, r->err);
}

static void assert_works(const result *r) {
  if (r->status) fail_msg("status %d: %s", r->status, r->err);
}

// ---- the table ----

static void rows_are_consistent(void **state) {
  (void)state;
  for (size_t i = 0; cli_commands[i]; i++) {
    const cli_command *c = cli_commands[i];
    assert_non_null(c->run);
    assert_true(strlen(c->summary) > 5 && strlen(c->summary) < 65);
    assert_ptr_equal(cli_find_command(c->name), c);
    const cli_option *o;
    for (size_t k = 0; (o = cli_option_at(c, k)); k++) {
      print_message("# %s --%s\n", c->name, o->name);
      assert_true(o->help && *o->help && !strpbrk(o->help, "\n\t|"));
      assert_int_equal(o->value == NULL, o->kind == CLI_FLAG);
      if (o->kind == CLI_INT || o->kind == CLI_FLOAT) assert_true(o->low < o->high);
      // A default that is a number or a choice must be an allowed value; other words explain.
      bool number = o->fallback && strspn(o->fallback, "0123456789.-") == strlen(o->fallback);
      if (number || (o->fallback && o->kind == CLI_CHOICE)) assert_int_equal(cli_check_value(o, o->fallback, NULL), ZM_OK);
      const cli_option *other;
      for (size_t n = k + 1; (other = cli_option_at(c, n)); n++) {
        assert_string_not_equal(o->name, other->name);
        if (o->letter) assert_int_not_equal(o->letter, other->letter);
      }
    }
  }
}

static void assert_fits(const zmi_text *text) {
  size_t lines = 0, column = 0;
  for (const char *p = zmi_text_str(text); *p; p++) {
    column = *p == '\n' ? 0 : column + 1;
    lines += *p == '\n';
    if (column > 79) fail_msg("more than 79 columns in line %zu of:\n%s", lines + 1, zmi_text_str(text));
  }
  if (lines > 24 || column) fail_msg("%zu lines, or no newline at the end:\n%s", lines, zmi_text_str(text));
}

static void help_fits_a_screen(void **state) {
  (void)state;
  for (size_t i = 0; cli_commands[i]; i++) {
    zmi_text out = {0};
    cli_help_command(cli_commands[i], &out);
    assert_fits(&out);
    zmi_text_release(&out);
  }
  zmi_text out = {0};
  cli_help_overview(&out);
  assert_fits(&out);
  zmi_text_release(&out);
  cli_help_model_options(&out);
  assert_fits(&out);
  zmi_text_release(&out);
  cli_help_sampling(&out);
  assert_fits(&out);
  zmi_text_release(&out);
}

// ---- parsing ----

static zm_status parse(const char *command, cli_args *args, char **argv, int argc) {
  return cli_parse(cli_find_command(command), argc, argv, args);
}
#define PARSE(command, ...) parse(command, &args, (char *[]){__VA_ARGS__}, (int)(sizeof((char *[]){__VA_ARGS__}) / sizeof(char *)))

static void values_are_read(void **state) {
  (void)state;
  cli_args args;
  assert_int_equal(PARSE("generate", "m", "--temperature=0.5", "-n", "7", "-qs12", "--stop", "--x", "--stop=", "--", "--y"),
                   ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "unexpected argument '--y'"));
  cli_args_release(&args);
  assert_int_equal(
      PARSE("generate", "m", "--temperature=0.5", "-n", "7", "-qs12", "--stop", "--x", "--stop=", "--presence-penalty", "-1.5"), ZM_OK);
  assert_int_equal(args.count, 1);
  assert_string_equal(args.positional[0], "m");
  assert_true(cli_float(&args, "temperature") == 0.5);
  assert_true(cli_float(&args, "presence-penalty") == -1.5);
  assert_int_equal(cli_int(&args, "max-tokens"), 7);
  assert_int_equal(cli_int(&args, "seed"), 12);
  assert_int_equal(cli_int(&args, "chunk"), 128); // defaults
  assert_int_equal(cli_int(&args, "threads"), 0);
  assert_string_equal(cli_text(&args, "patch"), "all");
  assert_null(cli_text(&args, "prompt"));
  assert_true(cli_flag(&args, "quiet") && !cli_flag(&args, "json") && !cli_given(&args, "chunk"));
  assert_string_equal(cli_item(&args, "stop", 0), "--x");
  assert_string_equal(cli_item(&args, "stop", 1), "");
  assert_null(cli_item(&args, "stop", 2));
  cli_args_release(&args);
}

static void bad_values_are_refused(void **state) {
  (void)state;
  static const struct {
    const char *words[4], *says;
  } cases[] = {
      {{"--max-token", "5"}, "generate has no option --max-token: did you mean --max-tokens?"},
      {{"--temp", "1"}, "did you mean --temperature?"},
      {{"--colour"}, "generate has no option --colour: see zmlx help generate"},
      {{"-z"}, "generate has no option -z"},
      {{"--max-tokens"}, "--max-tokens needs a value"},
      {{"--max-tokens", "many"}, "--max-tokens: 'many' is not a whole number; allowed are 1 to 1073741824"},
      {{"--max-tokens", "1.5"}, "'1.5' is not a whole number"},
      {{"--max-tokens", "0"}, "--max-tokens: 0 is out of range; allowed are 1 to"},
      {{"--max-tokens", ""}, "'' is not a whole number"},
      {{"--max-tokens", "99999999999999999999999"}, "out of range"},
      {{"--top-p", "1.01"}, "--top-p: 1.01 is out of range; allowed are 0 to 1"},
      {{"--top-p", "nan"}, "'nan' is not a number"},
      {{"--top-p", "0x1"}, "'0x1' is not a number"},
      {{"--temperature", "1e999"}, "is not a number"},
      {{"--dtype", "int8"}, "--dtype: 'int8' is none of bfloat16|float32"},
      {{"--json=yes"}, "--json takes no value"},
      {{"--seed", "1", "--seed=2"}, "--seed was given twice"},
      {{"--prompt-file", ""}, "--prompt-file: the path is empty"},
      {{"--threads", "0"}, "--threads: 0 is out of range; allowed are 1 to 1024"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char *words[5] = {(char *)(uintptr_t) "m"};
    int n = 1;
    while (n < 5 && cases[i].words[n - 1]) words[n] = (char *)(uintptr_t)cases[i].words[n - 1], n++;
    cli_args args;
    zm_status status = cli_parse(cli_find_command("generate"), n, words, &args);
    if (status != ZM_ERROR_ARGUMENT || !strstr(zm_last_error(), cases[i].says))
      fail_msg("expected \"%s\", got: %s", cases[i].says, zm_last_error());
    cli_args_release(&args);
  }
  cli_args args;
  assert_int_equal(PARSE("synth", "only-one"), ZM_ERROR_ARGUMENT);
  assert_non_null(strstr(zm_last_error(), "synth needs OUT_DIR: zmlx synth CONFIG_DIR OUT_DIR"));
  cli_args_release(&args);
}

static void tables_are_aligned(void **state) {
  (void)state;
  zmi_text out = {0};
  cli_table("name\t>size\tnote\nb\xc3\xa9\t7\tx\nlonger\t1234\ty z\n", &out);
  assert_string_equal(zmi_text_str(&out), "name    size  note\nb\xc3\xa9         7  x\nlonger  1234  y z\n");
  zmi_text_release(&out);
  char buffer[32];
  assert_string_equal(cli_bytes(999, buffer), "999 B");
  assert_string_equal(cli_bytes(999960, buffer), "1.0 MB");
  assert_string_equal(cli_bytes(16.8e6, buffer), "16.8 MB");
}

// ---- the program ----

static void usage_errors(void **state) {
  (void)state;
  assert_fails(run("generat", NULL), CLI_USAGE, "there is no command generat: did you mean generate?");
  assert_fails(run("brew", NULL), CLI_USAGE, "there is no command brew");
  assert_fails(run("generate", NULL), CLI_USAGE, "generate needs MODEL");
  assert_fails(run("generate", MODEL, "--nonsense", NULL), CLI_USAGE, "generate has no option --nonsense");
  assert_fails(run("generate", MODEL, NULL), CLI_USAGE, "exactly one of --prompt TEXT");
  assert_fails(run("generate", MODEL, "-p", "x", "--tokens-file", "y", NULL), CLI_USAGE, "exactly one of");
  assert_fails(run("generate", MODEL, "-p", "x", "--patch", "moe_mpl", NULL), CLI_USAGE, "--patch: ");
  assert_fails(run("patch", MODEL, "--again", NULL), CLI_USAGE, "--again needs --smart");
  assert_fails(run("generate", MODEL, "-p", "x", "--logit-bias", "5", NULL), CLI_USAGE, "'5' is not of the form ID=VALUE");
  assert_fails(run("generate", MODEL, "-p", "x", "--logit-bias", "5=x", NULL), CLI_USAGE, "'x' is not a number");
  assert_fails(run("generate", MODEL, "-p", "x", "--stop", "", NULL), CLI_USAGE, "--stop: an empty text");
  assert_fails(run("completion", "tcsh", NULL), CLI_USAGE, "no completion for tcsh");
  const result *r = run_words((char *[]){program, NULL});
  assert_int_equal(r->status, CLI_USAGE);
  assert_true(!r->out[0] && strstr(r->err, "generate"));
}

static void failures(void **state) {
  (void)state;
  const char *ids = file_with("ids", "486 316 263"), *far = file_with("far", "486 9000 3"), *words = file_with("words", "486 three 3");
  const char *empty = file_with("empty", ""), *blank = file_with("blank", " \n"), *bad = file_with("bad", "caf\xe9");
  assert_fails(run("generate", "no/such/model", "-p", "x", NULL), CLI_FAILURE, "no/such/model");
  assert_fails(run("generate", MODEL, "--prompt-file", "no/such/file", NULL), CLI_FAILURE, "no/such/file");
  assert_fails(run("generate", MODEL, "-p", "", NULL), CLI_FAILURE, "the prompt is empty");
  assert_fails(run("generate", MODEL, "--prompt-file", empty, NULL), CLI_FAILURE, "the prompt is empty");
  assert_fails(run("generate", MODEL, "--tokens-file", blank, NULL), CLI_FAILURE, "the prompt is empty");
  assert_fails(run("generate", MODEL, "--tokens-file", far, NULL), CLI_FAILURE, "token 1 of the prompt is 9000");
  assert_fails(run("generate", MODEL, "--tokens-file", words, NULL), CLI_FAILURE, "token 1 is 'three'");
  assert_fails(run("generate", MODEL, "--prompt-file", bad, NULL), CLI_FAILURE, "the prompt: ");
  assert_fails(run("generate", MODEL, "--tokens-file", ids, "--context", "2", NULL), CLI_FAILURE, "3 tokens do not fit");
  assert_fails(run("generate", MODEL, "--tokens-file", ids, "--context", "99999", NULL), CLI_FAILURE, "found 99999");
  assert_fails(run("generate", MODEL, "--tokens-file", ids, "--isa", "z80", NULL), CLI_FAILURE, "z80");
  assert_fails(run("generate", MODEL, "--tokens-file", ids, "--memory-limit", "0.001", NULL), CLI_FAILURE, "more than the limit of 1.0 MB");
  assert_fails(run("generate", MODEL, "--tokens-file", ids, "--logit-bias", "9000=1", NULL), CLI_FAILURE, "token 9000");
  // Before the model is looked for: such a capsule would be lost after minutes of work.
  static const char nowhere[] = "/nonexistent/capsule.json";
  assert_fails(run("bench", "/no/such/model", "--capsule", nowhere, NULL), CLI_FAILURE, nowhere);
  assert_fails(run("validate", "/no/such/model", "--capsule", nowhere, NULL), CLI_FAILURE, nowhere);
  assert_fails(run("bench", "/no/such/model", "--compare", nowhere, NULL), CLI_FAILURE, nowhere);
  assert_fails(run("bench", "/no/such/model", "--compare", "benchmarks/capsules/storyteller-validate.json", NULL), CLI_FAILURE,
               "found kind \"validate\"");
  assert_fails(run("logits", MODEL, "--tokens-file", ids, "--out", in_scratch("none/x"), NULL), CLI_FAILURE, "none/x");
  assert_fails(run("logits", MODEL, "--tokens-file", ids, "--out", scratch, NULL), CLI_FAILURE, scratch);
  assert_fails(run("logits", MODEL, "--tokens-file", empty, "--out", in_scratch("x"), NULL), CLI_FAILURE, "no token ids");
  assert_fails(run("logits", MODEL, "--tokens-file", ids, "--last", "4", "--out", in_scratch("x"), NULL), CLI_FAILURE,
               "--last 4 is more than the 3");
  setenv("ZMLX_CUDA_PATH", "/no/such/folder", 1);
  assert_fails(run("logits", MODEL, "--tokens-file", ids, "--device", "cuda", "--out", in_scratch("x"), NULL), CLI_FAILURE,
               "no NVIDIA driver is installed here");
  unsetenv("ZMLX_CUDA_PATH");
  assert_fails(run("logits", MODEL, "--tokens-file", ids, "--executor", "graph", "--out", in_scratch("x"), NULL), CLI_FAILURE,
               "executor graph plays on a GPU only: ask for the device cuda too");
  assert_int_equal(access(in_scratch("x"), F_OK), -1);
  assert_fails(run("inspect", "no/such/file", NULL), CLI_FAILURE, "no/such/file");
  assert_fails(run("tokenize", "no/such/model", "--text", "x", NULL), CLI_FAILURE, "no/such/model");
  assert_fails(run("detokenize", MODEL, "--tokens-file", far, NULL), CLI_FAILURE, "9000");
  assert_fails(run("tape", "--parse", ids, NULL), CLI_FAILURE, "ids");
  assert_fails(run("synth", "no/such/folder", in_scratch("made"), NULL), CLI_FAILURE, "no/such/folder");
}

// The profile and the peers' runs, as tables and as JSON.
static void benches(void **state) {
  (void)state;
  static const char peer[] = "benchmarks/capsules/qwen3-30b-8layers-llama_cpp.json";
  const result *r = run("bench", MODEL, "-p", "8", "-n", "2", "--runs", "1", "--profile", "--compare", peer, NULL);
  assert_int_equal(r->status, CLI_OK);
  static const char *const said[] = {"MB read",         "us waiting",       "waits for",  "(end)",
                                     "zmlx over it",    "llama-cpp-python", "zmlx_stock", "not made in this setting: ",
                                     "layers 8 there, "};
  for (size_t i = 0; i < ZMI_COUNT(said); i++) {
    if (!strstr(r->out, said[i])) fail_msg("'%s' is not in:\n%s", said[i], r->out);
  }
  r = run("bench", MODEL, "-p", "8", "-n", "2", "--runs", "1", "--profile", "--compare", peer, "--json", NULL);
  json_t *j = json_loads(r->out, 0, NULL);
  assert_true(json_array_size(json_object_get(j, "profile")) > 3 && json_array_size(json_object_get(j, "waits")) > 3);
  const json_t *compare = json_object_get(j, "compare");
  assert_int_equal(json_array_size(json_object_get(compare, "engines")), 4);
  assert_true(json_array_size(json_object_get(compare, "differences")) > 3);
  assert_int_equal(json_integer_value(json_object_get(json_object_get(compare, "model"), "layers")), 8);
  json_decref(j);
}

// The next run overwrites a result.
static void keep(const char *text, char *copy, size_t capacity) {
  assert_true(strlen(text) < capacity);
  memcpy(copy, text, strlen(text) + 1);
}

static void generates(void **state) {
  (void)state;
  const char *ids = file_with("ids", "486 316 263 575 681 443 16 285");
  const result *r = run("generate", MODEL, "--tokens-file", ids, "-n", "12", "--ignore-eos", "--print-tokens", "--temperature", "0", NULL);
  assert_works(r);
  char first[512];
  size_t words = 0;
  for (const char *p = r->out; *p; p++) words += *p == ' ' || *p == '\n';
  assert_int_equal(words, 12);
  assert_ptr_equal(strchr(r->out, '\n'), r->out + strlen(r->out) - 1); // one line, nothing else
  assert_non_null(strstr(r->err, "prompt 8 tokens, "));
  assert_non_null(strstr(r->err, "; new 12 tokens, "));
  assert_null(strchr(r->err, '\033'));
  keep(r->out, first, sizeof first);
  r = run("generate", MODEL, "--tokens-file", ids, "-n", "12", "--ignore-eos", "--print-tokens", "-q", "--patch", "none", "-t", "1",
          "--chunk", "3", NULL);
  assert_works(r);
  assert_string_equal(r->out, first);
  assert_string_equal(r->err, "");

  const char *saved = file_with("new", first);
  r = run("detokenize", MODEL, "--tokens-file", saved, "--skip-special", NULL);
  assert_works(r);
  char text[512];
  keep(r->out, text, sizeof text);
  r = run("generate", MODEL, "--tokens-file", ids, "-n", "12", "--ignore-eos", "-q", NULL);
  assert_works(r);
  assert_memory_equal(r->out, text, strlen(text));
  assert_string_equal(r->out + strlen(text), text[strlen(text) - 1] == '\n' ? "" : "\n");
  r = run("generate", MODEL, "--tokens-file", ids, "-n", "12", "--ignore-eos", "-q", "--json", NULL);
  assert_works(r);
  json_t *j = json_loads(r->out, 0, NULL);
  assert_non_null(j);
  assert_string_equal(json_string_value(json_object_get(j, "text")), text);
  assert_string_equal(json_string_value(json_object_get(j, "stop")), "length");
  assert_int_equal(json_array_size(json_object_get(j, "tokens")), 12);
  assert_int_equal(json_array_size(json_object_get(j, "logprobs")), 12);
  json_decref(j);
}

static void tokens_and_text(void **state) {
  (void)state;
  const char *text = "  Once upon\n\ta time, caf\xc3\xa9 \xe2\x82\xac 12345!\r\n <|endoftext|>x ";
  const char *file = file_with("text", text);
  const result *r = run("tokenize", MODEL, "--file", file, NULL);
  assert_works(r);
  assert_ptr_equal(strchr(r->out, '\n'), r->out + strlen(r->out) - 1);
  const char *ids = file_with("ids2", r->out);
  r = run("detokenize", MODEL, "--tokens-file", ids, NULL);
  assert_works(r);
  assert_string_equal(r->out, text);
}

static void logits_file(void **state) {
  (void)state;
  const char *ids = file_with("ids", "486 316 263 575 681"), *a = in_scratch("a.safetensors"), *b = in_scratch("b.safetensors");
  assert_works(run("logits", MODEL, "--tokens-file", ids, "--last", "3", "--out", a, NULL));
  assert_works(run("logits", MODEL, "--tokens-file", ids, "--last", "3", "--chunk", "2", "--patch", "none", "-t", "1", "-o", b, NULL));
  zmi_tensors *x = zmi_tensors_open(a), *y = zmi_tensors_open(b);
  assert_non_null(x);
  assert_non_null(y);
  assert_int_equal(zmi_tensors_count(x), 2);
  const zmi_tensor *l = zmi_tensors_find(x, "logits"), *n = zmi_tensors_find(x, "nll");
  assert_true(l && l->dtype == ZM_F32 && l->rank == 2 && l->shape[0] == 3 && l->shape[1] == 8192);
  assert_true(n && n->dtype == ZM_F32 && n->rank == 1 && n->shape[0] == 4);
  assert_memory_equal(l->data, zmi_tensors_find(y, "logits")->data, l->bytes);
  assert_memory_equal(n->data, zmi_tensors_find(y, "nll")->data, n->bytes);
  zmi_tensors_close(x);
  zmi_tensors_close(y);
  const result *r = run("inspect", a, NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "logits  float32  [3, 8192]  98304\n"));
  assert_works(run("logits", MODEL, "--tokens-file", file_with("one", "5"), "--out", a, NULL)); // no likelihoods of one token
}

static void tapes(void **state) {
  (void)state;
  int out = open(in_scratch("tape"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_int_equal(finish(start((char *[]){program, "tape", MODEL, "--rows", "2", NULL}, -1, out, -1)), 0);
  close(out);
  out = open(in_scratch("tape2"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  char parse_file[256];
  snprintf(parse_file, sizeof parse_file, "--parse=%s", in_scratch("tape"));
  assert_int_equal(finish(start((char *[]){program, "tape", parse_file, NULL}, -1, out, -1)), 0);
  close(out);
  assert_works(run_words((char *[]){"cmp", (char *)(uintptr_t)in_scratch("tape"), (char *)(uintptr_t)in_scratch("tape2"), NULL}));
  const result *r = run("tape", MODEL, "--counts", NULL);
  assert_works(r);
  assert_true(strstr(r->out, "# stock\n") && strstr(r->out, "# patched\n"));
}

static void environment_and_help(void **state) {
  (void)state;
  setenv("ZMLX_THREAD", "3", 1);
  const result *r = run("version", NULL);
  unsetenv("ZMLX_THREAD");
  assert_works(r);
  assert_string_equal(r->err, "zmlx: warning: the environment variable ZMLX_THREAD is unknown: did you mean ZMLX_THREADS\n");
  assert_int_equal(strncmp(r->out, "zmlx ", 5), 0);
  static const char *const ignored[][2] = {
      {"ZMLX_KERNELS", "interpreted"}, {"ZMLX_CC_SECONDS", "0"}, {"ZMLX_TUNE_SECONDS", "nan"}, {"ZMLX_CACHE_MB", "12x"}};
  static const char *const taken[][2] = {
      {"ZMLX_KERNELS", "compile"}, {"ZMLX_CC_SECONDS", "0.5"}, {"ZMLX_TUNE_SECONDS", "36000"}, {"ZMLX_CACHE_MB", "0"}};
  for (size_t i = 0; i < ZMI_COUNT(ignored); i++) {
    char says[96];
    setenv(ignored[i][0], ignored[i][1], 1);
    r = run("version", NULL);
    snprintf(says, sizeof says, "zmlx: warning: the environment variable %s is \"%s\", which is ignored: give ", ignored[i][0],
             ignored[i][1]);
    assert_int_equal(strncmp(r->err, says, strlen(says)), 0);
    setenv(taken[i][0], taken[i][1], 1);
    assert_string_equal(run("version", NULL)->err, "");
    unsetenv(ignored[i][0]);
  }
  char help[4096];
  r = run("help", "generate", NULL);
  assert_works(r);
  keep(r->out, help, sizeof help);
  assert_string_equal(run("generate", "--help", NULL)->out, help);
  assert_string_equal(run("generate", MODEL, "-h", "-n", "3", NULL)->out, help);
  r = run("help", "--markdown", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "## generate"));
}

static void output_that_fails(void **state) {
  (void)state;
  int full = open("/dev/full", O_WRONLY), err = open(in_scratch("err"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  if (full < 0) skip();
  char text[1024];
  assert_int_equal(finish(start((char *[]){program, "help", NULL}, -1, full, err)), CLI_FAILURE);
  read_back("err", text, sizeof text);
  assert_string_equal(text, "zmlx: standard output cannot be written: No space left on device\n");
  assert_int_equal(finish(start((char *[]){program, "generate", MODEL, "-p", "Once", "-n", "5000", NULL}, -1, full, err)), CLI_FAILURE);
  close(full);
  close(err);
}

// A file that grows beyond the limit is reported like a full disk; the signal does not end the process without a word.
static void output_beyond_the_limit(void **state) {
  (void)state;
  char ids[300], out[300], text[1024];
  struct rlimit before, low;
  snprintf(ids, sizeof ids, "%s", in_scratch("ids"));
  snprintf(out, sizeof out, "%s", in_scratch("logits"));
  FILE *f = fopen(ids, "w");
  assert_non_null(f);
  fputs("1 2 3\n", f);
  fclose(f);
  int err = open(in_scratch("err"), O_RDWR | O_CREAT | O_TRUNC, 0600), null = open("/dev/null", O_WRONLY);
  assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
  low = (struct rlimit){.rlim_cur = 1024, .rlim_max = before.rlim_max};
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0); // the child inherits it; this process writes nothing meanwhile
  pid_t child = start((char *[]){program, "logits", MODEL, "--tokens-file", ids, "--out", out, NULL}, -1, null, err);
  assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
  assert_int_equal(finish(child), CLI_FAILURE);
  read_back("err", text, sizeof text);
  if (!strstr(text, "the file size limit is reached")) fail_msg("found \"%s\"", text);
  assert_int_not_equal(access(out, F_OK), 0);
  unlink(ids);
  close(null);
  close(err);
}

// ---- interrupts and pipes ----

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_for(double seconds) {
  struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
  nanosleep(&t, NULL);
}

// Interrupts a run once `bytes` of its output have come, or after `wait` seconds, and returns the seconds until it ended.
static double interrupt(char *const *words, int sig, size_t bytes, double wait, int *status) {
  int ends[2], err = open(in_scratch("err"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_int_equal(pipe(ends), 0);
  pid_t pid = start(words, -1, ends[1], err);
  close(ends[1]);
  char byte;
  for (size_t i = 0; i < bytes; i++) assert_int_equal(read(ends[0], &byte, 1), 1);
  sleep_for(wait);
  double sent = now();
  kill(pid, sig);
  *status = finish(pid);
  double took = now() - sent;
  close(ends[0]);
  close(err);
  return took;
}

// 100 ms is the promise of what is shipped; a sanitizer's bookkeeping is not part of it.
#define MOST_SECONDS (WATCHED ? 1.0 : 0.1)

// The best of several tries: other work on the machine may delay one, the program must not delay all.
static void assert_interrupted(char *const *words, int sig, size_t bytes, double wait, const char *says) {
  double best = 10;
  for (int i = 0; i < 5 && best > MOST_SECONDS; i++) {
    int status;
    double took = interrupt(words, sig, bytes, wait, &status);
    char text[1024];
    read_back("err", text, sizeof text);
    if (status != 128 + sig || !strstr(text, says)) fail_msg("status %d, expected %d and \"%s\" in: %s", status, 128 + sig, says, text);
    best = took < best ? took : best;
  }
  if (best > MOST_SECONDS) fail_msg("ended %.0f ms after the interrupt", best * 1e3);
}

static void ctrl_c(void **state) {
  (void)state;
  char *decode[] = {program, "generate", MODEL, "-p", "Once upon a time", "-n", "30000", "--ignore-eos", NULL};
  assert_interrupted(decode, SIGINT, 20, 0, "; interrupted");
  assert_interrupted(decode, SIGTERM, 20, 0, "; interrupted");
  zmi_text ids = {0};
  for (int i = 0; i < 30000; i++) zmi_text_add(&ids, "%d ", 3 + i * 7919 % 8000);
  char *path = (char *)(uintptr_t)file_with("long", zmi_text_str(&ids));
  zmi_text_release(&ids);
  char *prompt[] = {program, "generate", MODEL, "--tokens-file", path, "--chunk", "1024", NULL};
  assert_interrupted(prompt, SIGINT, 0, 0.4, "interrupted");
  char *logits[] = {program, "logits", MODEL, "--tokens-file", path, "--out", (char *)(uintptr_t)in_scratch("stopped"), NULL};
  int status;
  interrupt(logits, SIGINT, 0, 0.4, &status);
  assert_int_equal(status, 130);
  assert_works(run_words((char *[]){"sh", "-c", "test -z \"$(ls $0 | grep stopped)\"", scratch, NULL})); // nothing half-made
}

static void closed_pipe(void **state) {
  (void)state;
  int ends[2], err = open(in_scratch("err"), O_RDWR | O_CREAT | O_TRUNC, 0600);
  assert_int_equal(pipe(ends), 0);
  pid_t pid =
      start((char *[]){program, "generate", MODEL, "-p", "Once upon a time", "-n", "30000", "--ignore-eos", "-q", NULL}, -1, ends[1], err);
  close(ends[1]);
  char byte;
  assert_int_equal(read(ends[0], &byte, 1), 1);
  close(ends[0]); // what head does
  assert_int_equal(finish(pid), 0);
  close(err);
  char text[256];
  read_back("err", text, sizeof text);
  assert_string_equal(text, "");
}

// ---- terminals ----

// The output of a run whose standard streams are a terminal.
static int run_on_terminal(char *const *words, char *text, size_t capacity) {
  int master = posix_openpt(O_RDWR | O_NOCTTY);
  if (master < 0 || grantpt(master) || unlockpt(master)) skip();
  int terminal = open(ptsname(master), O_RDWR | O_NOCTTY);
  if (terminal < 0) skip();
  pid_t pid = start(words, terminal, terminal, terminal);
  close(terminal);
  size_t n = 0;
  ssize_t got;
  while (n + 1 < capacity && (got = read(master, text + n, capacity - 1 - n)) > 0) n += (size_t)got;
  text[n] = 0;
  close(master);
  return finish(pid);
}

static void colours(void **state) {
  (void)state;
  char *words[] = {program, "generate", MODEL, "-p", "Once upon a time", "-n", "5", NULL}, text[4096];
  assert_int_equal(run_on_terminal(words, text, sizeof text), 0);
  assert_non_null(strstr(text, "\033[2mprompt "));
  assert_non_null(strstr(text, "\033[0m"));
  setenv("NO_COLOR", "1", 1);
  assert_int_equal(run_on_terminal(words, text, sizeof text), 0);
  unsetenv("NO_COLOR");
  assert_non_null(strstr(text, "prompt "));
  assert_null(strstr(text, "\033[2m"));
  assert_null(strstr(text, "\033[0m"));
}

// ---- kernels ----

static void kernels_are_shown(void **state) {
  (void)state;
  static const struct {
    const char *target, *holds;
  } targets[] = {{"c", "void zk_elements("}, {"cuda", "__global__"}, {"metal", "[[buffer(0)]]"}, {"ir", "output #0"}};
  for (size_t i = 0; i < ZMI_COUNT(targets); i++) {
    const result *r = run("kernel", "show", "--expr", "x * sigmoid(x)", "--target", targets[i].target, NULL);
    assert_works(r);
    if (!strstr(r->out, targets[i].holds)) fail_msg("%s: %s", targets[i].target, r->out);
  }
  const result *r =
      run("kernel", "show", "--rows", "elements { s = sum(x); } elements { y = x / s; }", "--vjp", "--dtype", "bfloat16", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "void zk_rows("));
  r = run("kernel", "show", "--expr", "x * sigmoid(x", NULL);
  assert_int_equal(r->status, CLI_FAILURE);
  assert_non_null(strstr(r->err, "^"));
  assert_int_equal(run("kernel", "show", NULL)->status, CLI_USAGE);
  r = run("kernel", "lst", NULL);
  assert_int_equal(r->status, CLI_USAGE);
  assert_non_null(strstr(r->err, "did you mean list?"));
  // Names of the catalog: bare as --expr is, in full when asked for; operands in the order of --inputs; messages name the option.
  r = run("kernel", "show", "mish", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "void zk_elements("));
  assert_null(strstr(r->out, "#ifndef ZK_NUMBERS"));
  r = run("kernel", "show", "mish", "--full", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "#ifndef ZK_NUMBERS"));
  r = run("kernel", "show", "--expr", "a - b", "--inputs", "b a", "--target", "ir", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "%0 = input float #1")); // a is the second operand
  r = run("kernel", "show", "--expr", "a - b", "--inputs", "a", NULL);
  assert_int_equal(r->status, CLI_FAILURE);
  assert_non_null(strstr(r->err, "kernel --expr:1:5: "));
}

static void options_of_other_kernel_actions(void **state) {
  (void)state;
  assert_fails(run("kernel", "list", "--vjp", NULL), CLI_USAGE, "--vjp goes with kernel show, not with list");
  assert_fails(run("kernel", "cache", "--runs", "3", NULL), CLI_USAGE, "--runs goes with kernel bench, not with cache");
  assert_fails(run("kernel", "show", "mish", "--inputs", "a", NULL), CLI_USAGE, "--inputs goes with --expr or --rows, not with NAME");
  assert_fails(run("kernel", "show", "norms", NULL), CLI_USAGE, "norms is a group of kernels: choose one of them, like rmsnorm");
  assert_fails(run("kernel", "list", "mosh", NULL), CLI_USAGE, "the catalog has no kernel mosh: did you mean mish?");
  assert_fails(run("kernel", "cache", "mish", NULL), CLI_USAGE, "kernel cache takes no NAME, but mish was given");
  assert_fails(run("kernel", NULL), CLI_USAGE, "kernel needs ACTION: zmlx kernel ACTION [NAME]; see zmlx help kernel");
}

static size_t widest_line(const char *text) {
  size_t widest = 0;
  for (; *text; text += strcspn(text, "\n") + (text[strcspn(text, "\n")] != 0)) widest = ZMI_MAX(widest, strcspn(text, "\n"));
  return widest;
}

// Names as pages and programs spell them, gradients, and what has no source.
static void catalog_rows_are_shown(void **state) {
  (void)state;
  char *plain = strdup(run("kernel", "show", "rmsnorm", NULL)->out);
  const result *r = run("kernel", "show", "zm_rmsnorm", NULL);
  assert_works(r);
  assert_string_equal(r->out, plain);
  assert_int_equal(strncmp(plain, "// The code of tape ops: rms_norm (in fused_residual_norm, fused_qkv)\n", 70), 0);
  r = run("kernel", "list", "moe_combine", NULL);
  assert_non_null(strstr(r->out, "tape        combine (in fused_moe_mlp)"));
  r = run("kernel", "show", "rmsnorm", "--vjp", "--target", "ir", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "output #1")); // by x and by the weight
  assert_null(strstr(r->out, "output #2"));
  free(plain);
  r = run("kernel", "show", "elu", "--vjp", "--target", "ir", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "output #0"));
  assert_null(strstr(r->out, "output #1"));                   // not by alpha
  assert_works(run("kernel", "show", "silu_mul_grad", NULL)); // the name that it has in ZMLX
}

static void the_catalog_is_listed(void **state) {
  (void)state;
  const result *r = run("kernel", "list", NULL);
  assert_works(r);
  if (widest_line(r->out) > 120) fail_msg("%zu columns", widest_line(r->out));
  assert_non_null(strstr(r->out, "\nmoe_dispatch "));
  r = run("kernel", "list", "norms", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "\nrmsnorm "));
  assert_null(strstr(r->out, "\nmish "));
  r = run("kernel", "list", "zm_rmsnorm", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "function    zm_rmsnorm\ngroup       norms: src/catalog/norms.c\nform        rows\n"));
  assert_non_null(strstr(r->out, "gradient    x weight\n"));
  r = run("kernel", "list", "mish", "--json", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "\"gradient\": \"x\""));
  assert_null(strstr(r->out, "\"mish_grad\""));
}

static void kernel_actions_explain_themselves(void **state) {
  (void)state;
  const result *r = run("kernel", "show", "--help", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "Usage: zmlx kernel show [NAME]"));
  assert_non_null(strstr(r->out, "--target"));
  assert_null(strstr(r->out, "--runs"));
  assert_null(strstr(r->out, "show: "));
  if (widest_line(r->out) > 80) fail_msg("%zu columns", widest_line(r->out));
  r = run("kernel", "--help", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "--runs"));
  assert_non_null(strstr(r->out, "show: "));
}

// Few runs have no interval; threads and memory are named.
static void kernels_are_timed(void **state) {
  (void)state;
  setenv("ZMLX_CACHE_DIR", in_scratch("timed"), 1);
  const result *r = run("kernel", "bench", "zm_mish", "--runs", "1", "--elements", "1000", NULL);
  assert_works(r);
  assert_null(strstr(r->out, "low"));
  assert_non_null(strstr(r->out, " GB/s from memory"));
  r = run("kernel", "bench", "mish", "--runs", "5", "--elements", "1000", "--json", NULL);
  assert_works(r);
  assert_null(strstr(r->out, "\"low\""));
  assert_non_null(strstr(r->out, "\"threads\": "));
  r = run("kernel", "bench", "mish", "--runs", "6", "--elements", "1000", "--json", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "\"low\""));
  unsetenv("ZMLX_CACHE_DIR");
}

static void the_kernel_cache_is_shown(void **state) {
  (void)state;
  setenv("ZMLX_CACHE_DIR", in_scratch("cache"), 1);
  const result *r = run("kernel", "cache", "--json", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "\"entries\": 0"));
  r = run("kernel", "cache", "--clear", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "removed   0"));
  unsetenv("ZMLX_CACHE_DIR");
}

static void the_catalog_is_tested(void **state) {
  (void)state;
  setenv("ZMLX_CACHE_DIR", in_scratch("cache"), 1);
  const result *r = run("kernel", "test", "attention_tile_proto", NULL);
  assert_works(r);
  assert_string_equal(r->out, "ok     attention_tile_proto\n1 passed, 0 failed\n");
  r = run("kernel", "test", "softmax", "--json", NULL); // a whole group
  assert_works(r);
  assert_non_null(strstr(r->out, "\"failed\": 0"));
  assert_non_null(strstr(r->out, "\"log_softmax_lastdim\""));
  assert_null(strstr(r->out, "\"rmsnorm\""));
  r = run("kernel", "test", "log_softmax_lastdin", NULL);
  assert_int_equal(r->status, CLI_USAGE);
  assert_non_null(strstr(r->err, "did you mean log_softmax_lastdim?"));
  r = run("kernel", "test", "moe_dispatch", "--dtype", "bfloat16", "--json", NULL);
  assert_works(r);
  assert_non_null(strstr(r->out, "\"bfloat16\": \""));
  assert_null(strstr(r->out, "\"float32\""));
  unsetenv("ZMLX_CACHE_DIR");
  // Every row has stored results to be compared with; scripts/make_kernel_results.py stores them.
  const zmi_entry *e;
  for (size_t i = 0; (e = zmi_catalog_at(i, NULL)); i++) {
    const cli_kernel_result *k = cli_kernel_results;
    while (k->name && strcmp(k->name, e->name) != 0) k++;
    if (!k->name || !k->digest[0] || !k->digest[1] || !k->digest[2]) fail_msg("%s: no stored results", e->name);
  }
}

// ---- completion ----

static void assert_completes(const char *line, const char *expected) {
  char command[1024];
  snprintf(
      command, sizeof command,
      ". %s; COMP_WORDS=(%s); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); [ \"${COMP_WORDS[COMP_CWORD]}\" = . ] && COMP_WORDS[COMP_CWORD]=; "
      "_zmlx; echo \"${COMPREPLY[*]}\"",
      in_scratch("completion"), line);
  const result *r = run_words((char *[]){"bash", "-c", command, NULL});
  assert_works(r);
  if (strncmp(r->out, expected, strlen(expected)) != 0) fail_msg("%s completes to %s", line, r->out);
}

static void bash_completion(void **state) {
  (void)state;
  const result *r = run("completion", "bash", NULL);
  assert_works(r);
  char *path = (char *)(uintptr_t)file_with("completion", r->out);
  if (run_words((char *[]){"bash", "--version", NULL})->status) skip();
  assert_works(run_words((char *[]){"bash", "-n", path, NULL}));
  assert_completes("zmlx gen", "generate\n");
  assert_completes("zmlx de", "detokenize\n");
  assert_completes("zmlx generate m --max", "--max-tokens\n");
  assert_completes("zmlx generate --dtype .", "bfloat16 float32\n"); // "." stands for a word not yet begun
  assert_completes("zmlx logits --device cu", "cuda\n");
  assert_completes("zmlx help toke", "tokenize\n");
  assert_completes("zmlx completion z", "zsh\n");
  assert_completes("zmlx kernel sh", "show\n");
  assert_completes("zmlx kernel show residual_rms", "residual_rmsnorm\n");
  assert_completes("zmlx kernel bench acti", "activations\n");
  assert_completes("zmlx inspect checkpoints/story", "checkpoints/storyteller-4bit\n");
  assert_completes("zmlx generate m --prompt .", "\n"); // any text
}

static void other_completions(void **state) {
  (void)state;
  static const char *const shells[] = {"zsh", "fish"};
  for (size_t i = 0; i < 2; i++) {
    const result *r = run("completion", shells[i], NULL);
    assert_works(r);
    for (size_t k = 0; cli_commands[k]; k++) assert_non_null(strstr(r->out, cli_commands[k]->name));
    assert_non_null(strstr(r->out, i ? "-l max-tokens" : "--max-tokens["));
    assert_non_null(strstr(r->out, " residual_rmsnorm "));
    char *path = (char *)(uintptr_t)file_with("other", r->out);
    if (run_words((char *[]){(char *)(uintptr_t)shells[i], "--version", NULL})->status == 0)
      assert_works(run_words((char *[]){(char *)(uintptr_t)shells[i], "-n", path, NULL}));
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(rows_are_consistent),
      cmocka_unit_test(help_fits_a_screen),
      cmocka_unit_test(values_are_read),
      cmocka_unit_test(bad_values_are_refused),
      cmocka_unit_test(tables_are_aligned),
      cmocka_unit_test(usage_errors),
      cmocka_unit_test(failures),
      cmocka_unit_test(benches),
      cmocka_unit_test(generates),
      cmocka_unit_test(tokens_and_text),
      cmocka_unit_test(logits_file),
      cmocka_unit_test(tapes),
      cmocka_unit_test(environment_and_help),
      cmocka_unit_test(kernels_are_shown),
      cmocka_unit_test(options_of_other_kernel_actions),
      cmocka_unit_test(catalog_rows_are_shown),
      cmocka_unit_test(the_catalog_is_listed),
      cmocka_unit_test(kernel_actions_explain_themselves),
      cmocka_unit_test(kernels_are_timed),
      cmocka_unit_test(the_kernel_cache_is_shown),
      cmocka_unit_test(the_catalog_is_tested),
      cmocka_unit_test(output_that_fails),
      cmocka_unit_test(output_beyond_the_limit),
      cmocka_unit_test(ctrl_c),
      cmocka_unit_test(closed_pipe),
      cmocka_unit_test(colours),
      cmocka_unit_test(bash_completion),
      cmocka_unit_test(other_completions),
  };
  return cmocka_run_group_tests(tests, set_up, tear_down);
}
