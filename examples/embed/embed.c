// The smallest useful program: opens a checkpoint, patches it, and streams the continuation of a prompt.
//   make -C examples/embed && examples/embed/embed checkpoints/storyteller-4bit "Once upon a time"
#include <stdio.h>
#include <string.h>
#include <zmlx/zmlx.h>

static bool show(void *user, const zm_token_event *event) {
  (void)user;
  fwrite(event->text, 1, event->text_size, stdout);
  return fflush(stdout) == 0; // false stops: nobody reads any more
}

static bool continue_prompt(zm_model *model, const char *prompt) {
  int32_t *ids = NULL;
  size_t count = 0;
  zm_session *session = NULL;
  zm_generate_result result = {0};
  const zm_tokenizer *tokenizer = zm_model_tokenizer(model);
  bool ok = tokenizer != NULL &&
            zm_tokenizer_encode(tokenizer, prompt, strlen(prompt), &(zm_encode_options){.add_special = true}, &ids, &count) == ZM_OK &&
            (session = zm_session_open(model, NULL)) != NULL &&
            zm_generate(session, ids, count, &(zm_generate_options){.max_tokens = 60, .on_token = show}, &result) == ZM_OK;
  if (ok) printf("\n[%zu tokens, %.0f a second]\n", result.count, (double)result.count / result.decode_seconds);
  zm_generate_result_free(&result);
  zm_session_close(session);
  zm_tokens_free(ids);
  return ok;
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s CHECKPOINT PROMPT\n", argv[0]);
    return 2;
  }
  zm_model *model = zm_model_open(argv[1], NULL);
  bool ok = model != NULL && zm_patch(model, NULL, NULL) == ZM_OK && continue_prompt(model, argv[2]);
  if (!ok) fprintf(stderr, "%s: %s\n", argv[0], zm_last_error());
  zm_model_close(model);
  return ok ? 0 : 1;
}
