/* unicode.h: properties of characters, of libunistring (Unicode 14 in its release 1.0) and of the characters that came since (up to 17). */
#ifndef PENSTOCK_UNICODE_H
#define PENSTOCK_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/charsmap.h"

bool unicode_letter(uint32_t c); /* general category L */
bool unicode_number(uint32_t c); /* general category N */
bool unicode_space(uint32_t c);  /* White_Space */

/* Append the text (well-formed UTF-8) in normalization form C or D of Unicode 9, as the tokenizers library does. */
bool unicode_compose(const char *text, size_t bytes, text_buffer *out, status *st);
bool unicode_decompose(const char *text, size_t bytes, text_buffer *out, status *st);
/* Append the text with every character in lower case by itself, as Rust's char::to_lowercase: no final sigma. */
bool unicode_append_lower(const char *text, size_t bytes, text_buffer *out, status *st);

#endif
