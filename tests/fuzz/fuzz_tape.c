// Any bytes as the text of a tape: refused with a message, or a tape that verifies and whose printed form reads back to the same text.
#include "array/array.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  zmi_tape *tape = zmi_tape_parse((const char *)data, size, zmi_op_find);
  if (tape == NULL) {
    if (zm_last_status() == ZM_OK || zm_last_error()[0] == 0) abort();
    return 0;
  }
  zmi_text first = {0}, second = {0};
  if (zmi_tape_verify(tape) != ZM_OK || zmi_tape_print(tape, &first) != ZM_OK) abort();
  zmi_tape *again = zmi_tape_parse(zmi_text_str(&first), first.size, zmi_op_find);
  if (again == NULL || zmi_tape_print(again, &second) != ZM_OK) abort();
  if (first.size != second.size || memcmp(zmi_text_str(&first), zmi_text_str(&second), first.size) != 0) abort();
  zmi_text_release(&first);
  zmi_text_release(&second);
  zmi_tape_free(again);
  zmi_tape_free(tape);
  return 0;
}
