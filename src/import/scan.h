/* scan.h: walks through strict JSON where it lies, without memory.
 *
 * For the one kind of JSON that can be large and must be exact, a safetensors header: json-c would take twenty times its
 * bytes, and lets pass what the format forbids (a key given twice, comments). Strings are decoded in place. */
#ifndef PENSTOCK_SCAN_H
#define PENSTOCK_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct scan {
    char *text;       /* is overwritten by the strings' decoded form, behind `at` only */
    size_t length, at;
    const char *why;  /* what was wrong at `at`; NULL: nothing yet */
} scan;

/* Each returns false with `why` set (the first reason stays) where the text has something else. */
bool scan_skip(scan *s, char c);                  /* blanks, then exactly c */
bool scan_next_is(scan *s, char c);               /* as scan_skip, but it is no error when another character stands there */
char *scan_string(scan *s);                       /* NUL-terminated in place; NULL on error, or for a string that holds a \u0000 */
bool scan_uint(scan *s, uint64_t *n);             /* digits only: no sign, fraction, exponent or leading zero */
bool scan_value(scan *s);                         /* whatever it is, skipped */
bool scan_end(scan *s);                           /* only blanks are left */

#endif
