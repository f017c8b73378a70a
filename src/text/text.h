// The text room: tokenizers. Its interface is the public header; chat templates will join it.
#ifndef ZMI_TEXT_H
#define ZMI_TEXT_H

#include <zmlx/tokenizer.h>

#endif
