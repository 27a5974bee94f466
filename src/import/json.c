#define _POSIX_C_SOURCE 200809L /* strnlen */
#include "import/json.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { DEPTH = 32 };

static bool blank(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (!memchr(" \t\r\n", text[i], 4))
            return false;
    return true;
}

static json *parse_with(struct json_tokener *t, const char *text, size_t length, const char *name, status *st)
{
    json *j = json_tokener_parse_ex(t, text, (int)length);
    size_t end = json_tokener_get_parse_end(t);
    enum json_tokener_error error = json_tokener_get_error(t);
    if (error == json_tokener_continue) { /* a bare number ends only where the text does, which a 0 says */
        j = json_tokener_parse_ex(t, "", 1);
        error = json_tokener_get_error(t);
        end = length;
    }
    if (error != json_tokener_success)
        status_set(st, STATUS_BAD_FILE, "%s: not JSON at byte %zu: %s", name, end,
                   error == json_tokener_continue || error == json_tokener_error_parse_eof ? "it ends too early" : json_tokener_error_desc(error));
    else if (!blank(text + end, length - end))
        status_set(st, STATUS_BAD_FILE, "%s: something stands behind the JSON, at byte %zu", name, end);
    else if (!j) /* json-c's null is NULL, which here means failure; and no file of ours is a bare null */
        status_set(st, STATUS_BAD_FILE, "%s: is a bare null", name);
    else
        return j;
    json_object_put(j);
    return NULL;
}

json *json_parse(const char *text, size_t length, const char *name, status *st)
{
    if (length == 0 || length > INT_MAX / 2) {
        status_set(st, STATUS_BAD_FILE, "%s: not JSON: has %zu bytes", name, length);
        return NULL;
    }
    struct json_tokener *t = json_tokener_new_ex(DEPTH);
    if (!t) {
        status_set(st, STATUS_FAILED, "%s: out of memory", name);
        return NULL;
    }
    json *j = parse_with(t, text, length, name, st);
    json_tokener_free(t);
    return j;
}

void json_free(json *j) { json_object_put(j); }

const json *json_member(const json *o, const char *key)
{
    json *v = NULL;
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
        return NULL;
    return v;
}

/* "NAME: key must be WANTED, is VALUE", the value cut to what a sentence bears. */
static void wrong(const char *name, const char *key, const char *wanted, const json *v, status *st)
{
    enum { MOST = 60 };
    const char *is = json_object_to_json_string_ext((json *)(uintptr_t)v, JSON_C_TO_STRING_PLAIN);
    int length = is ? (int)strnlen(is, MOST) : 0;
    status_set(st, STATUS_BAD_FILE, "%s: %s must be %s, is %.*s%s", name, key, wanted, length, is ? is : "", length == MOST ? "..." : "");
}

/* A whole number, however it is written: 512, or 512.0 as in some configs. What is above INT64_MAX json-c gives as that limit,
 * unless asked for the unsigned number. */
static bool integer_of(const json *v, int64_t *out)
{
    if (json_object_is_type(v, json_type_int)) {
        *out = json_object_get_int64(v);
        return *out != INT64_MAX || json_object_get_uint64(v) == INT64_MAX;
    }
    if (json_object_is_type(v, json_type_double)) {
        double d = json_object_get_double(v);
        if (!(fabs(d) <= 9007199254740992.0) || d != floor(d)) /* 2^53: beyond it a double is not one integer */
            return false;
        *out = (int64_t)d;
        return true;
    }
    return false;
}

static bool integer_within(const json *v, int64_t low, int64_t high, int64_t *out)
{
    return integer_of(v, out) && *out >= low && *out <= high;
}

static void wrong_integer(const char *name, const char *key, const char *what, int64_t low, int64_t high, const json *v, status *st)
{
    char wanted[100];
    snprintf(wanted, sizeof wanted, "%s from %lld to %lld", what, (long long)low, (long long)high);
    wrong(name, key, wanted, v, st);
}

int64_t json_int(const json *o, const char *key, int64_t low, int64_t high, int64_t otherwise, const char *name, status *st)
{
    const json *v = json_member(o, key);
    int64_t n;
    if (!v)
        return otherwise;
    if (integer_within(v, low, high, &n))
        return n;
    wrong_integer(name, key, "a whole number", low, high, v, st);
    return otherwise;
}

int64_t json_need_int(const json *o, const char *key, int64_t low, int64_t high, const char *name, status *st)
{
    if (!json_member(o, key)) {
        status_set(st, STATUS_BAD_FILE, "%s: %s is missing", name, key);
        return low;
    }
    return json_int(o, key, low, high, low, name, st);
}

double json_double(const json *o, const char *key, double low, double high, double otherwise, const char *name, status *st)
{
    const json *v = json_member(o, key);
    if (!v)
        return otherwise;
    if (json_object_is_type(v, json_type_double) || json_object_is_type(v, json_type_int)) {
        double d = json_object_get_double(v);
        if (d >= low && d <= high) /* a NaN is not */
            return d;
    }
    char wanted[100];
    snprintf(wanted, sizeof wanted, "a number from %g to %g", low, high);
    wrong(name, key, wanted, v, st);
    return otherwise;
}

bool json_flag(const json *o, const char *key, bool otherwise, const char *name, status *st)
{
    const json *v = json_member(o, key);
    if (!v)
        return otherwise;
    if (json_object_is_type(v, json_type_boolean))
        return json_object_get_boolean(v);
    wrong(name, key, "true or false", v, st);
    return otherwise;
}

const char *json_text(const json *o, const char *key, const char *otherwise, const char *name, status *st)
{
    const json *v = json_member(o, key);
    if (!v)
        return otherwise;
    if (json_object_is_type(v, json_type_string))
        return json_object_get_string((json *)(uintptr_t)v);
    wrong(name, key, "a string", v, st);
    return otherwise;
}

int json_ints(const json *o, const char *key, int64_t *out, int most, int64_t low, int64_t high, const char *name, status *st)
{
    const json *v = json_member(o, key);
    if (!v)
        return 0;
    if (!json_object_is_type(v, json_type_array)) {
        if (most >= 1 && integer_within(v, low, high, out))
            return 1;
        wrong_integer(name, key, "an array of whole numbers", low, high, v, st);
        return -1;
    }
    size_t n = json_object_array_length(v);
    if (n > (size_t)most) {
        status_set(st, STATUS_BAD_FILE, "%s: %s has %zu entries, at most %d are understood", name, key, n, most);
        return -1;
    }
    for (size_t i = 0; i < n; i++)
        if (!integer_within(json_object_array_get_idx(v, i), low, high, &out[i])) {
            wrong_integer(name, key, "an array of whole numbers", low, high, v, st);
            return -1;
        }
    return (int)n;
}
