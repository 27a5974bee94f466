/* json.h: reading configs with json-c, with sentences for what is missing or of the wrong kind.
 *
 * Python writes -Infinity and NaN into its JSON; json-c's default (non-strict) parser takes them. */
#ifndef PENSTOCK_JSON_H
#define PENSTOCK_JSON_H

#include <json-c/json.h>

#include "base/status.h"

typedef struct json_object json;

/* Parse `length` bytes; anything behind the value, a depth over 32 or a syntax error is STATUS_BAD_FILE with name and offset. Free with json_free. */
json *json_parse(const char *text, size_t length, const char *name, status *st);
void json_free(json *j);

/* A member: absent or null gives the default; of the wrong type or outside low..high sets st ("NAME: key must be ..., is ...") and gives
 * the default. `name` is the file's name for the sentence. */
int64_t json_int(const json *o, const char *key, int64_t low, int64_t high, int64_t otherwise, const char *name, status *st);
double json_double(const json *o, const char *key, double low, double high, double otherwise, const char *name, status *st);
bool json_flag(const json *o, const char *key, bool otherwise, const char *name, status *st);
/* The string lives as long as the object. */
const char *json_text(const json *o, const char *key, const char *otherwise, const char *name, status *st);
/* Required variants: absence is an error too. */
int64_t json_need_int(const json *o, const char *key, int64_t low, int64_t high, const char *name, status *st);
const json *json_member(const json *o, const char *key); /* NULL when absent or null, or o is no object */
/* An array of integers (a single integer counts as an array of one); returns its length, 0 when absent, -1 with st set. */
int json_ints(const json *o, const char *key, int64_t *out, int most, int64_t low, int64_t high, const char *name, status *st);

#endif
