/* unicode_bert.h: the classes of characters that BERT's tokenizer goes by, as the tokenizers library has them: of Unicode 8. */
#ifndef PENSTOCK_UNICODE_BERT_H
#define PENSTOCK_UNICODE_BERT_H

#include <stdbool.h>
#include <stdint.h>

bool bert_control(uint32_t c);     /* goes: category C without the unassigned, U+FFFD; not tab and line ends */
bool bert_accent(uint32_t c);      /* Mn */
bool bert_punctuation(uint32_t c); /* stands by itself: P, and all ASCII signs */
bool bert_chinese(uint32_t c);     /* stands by itself: the blocks of ideographs */

#endif
