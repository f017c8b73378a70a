// The text room: tokenizers. Its interface is the public header, and one function on UTF-8; chat templates will join it.
#ifndef ZMI_TEXT_H
#define ZMI_TEXT_H

#include "base/base.h"
#include <zmlx/tokenizer.h>

// Whole characters and errors of a byte sequence that may end in the middle of a character, as Unicode's "maximal subpart" rule says.
// *taken bytes of text were looked at: a character (returns 1), a sequence to be replaced by U+FFFD (0), or the beginning of a
// character that lacks bytes (-1).
int zmi_utf8_step(const uint8_t *text, size_t size, size_t *taken);

#endif
