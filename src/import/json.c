#define _POSIX_C_SOURCE 200809L /* strnlen */
#include "import/json.h"

#include <math.h>

json *json_parse(const char *text, size_t length, const char *name, status *st)
{
    struct json_tokener *t = length <= INT32_MAX ? json_tokener_new_ex(32) : NULL;
    if (!t) {
        status_set(st, STATUS_FAILED, "%s: out of memory", name);
        return NULL;
    }
    json *j = json_tokener_parse_ex(t, text, (int)length);
    enum json_tokener_error e = json_tokener_get_error(t);
    size_t end = json_tokener_get_parse_end(t);
    if (e == json_tokener_continue && j == NULL) { /* a bare number ends with the text */
        j = json_tokener_parse_ex(t, "\n", 1);
        e = json_tokener_get_error(t);
    }
    while (end < length && (text[end] == ' ' || text[end] == '\n' || text[end] == '\r' || text[end] == '\t'))
        end++;
    if (e != json_tokener_success)
        status_set(st, STATUS_BAD_FILE, "%s: not JSON at byte %zu: %s", name, end, e == json_tokener_continue ? "it ends too early" : json_tokener_error_desc(e));
    else if (end < length)
        status_set(st, STATUS_BAD_FILE, "%s: something stands behind the JSON, at byte %zu", name, end);
    else if (!j)
        status_set(st, STATUS_BAD_FILE, "%s: is null", name);
    json_tokener_free(t);
    if (status_ok(st))
        return j;
    json_free(j);
    return NULL;
}

void json_free(json *j)
{
    if (j)
        json_object_put(j);
}

const json *json_member(const json *o, const char *key)
{
    json *m = NULL;
    if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &m))
        return NULL;
    return m;
}

int64_t json_int(const json *o, const char *key, int64_t low, int64_t high, int64_t otherwise, const char *name, status *st)
{
    const json *m = json_member(o, key);
    if (!m)
        return otherwise;
    double d = json_object_get_double(m);
    bool whole = json_object_is_type(m, json_type_int) || (json_object_is_type(m, json_type_double) && d == floor(d) && fabs(d) < 1e15);
    int64_t v = json_object_is_type(m, json_type_int) ? json_object_get_int64(m) : whole ? (int64_t)d : 0;
    if (whole && v >= low && v <= high)
        return v;
    status_set(st, STATUS_BAD_FILE, "%s: %s must be a whole number from %lld to %lld, is %.60s", name, key, (long long)low, (long long)high,
               json_object_to_json_string((json *)(uintptr_t)m));
    return otherwise;
}

double json_double(const json *o, const char *key, double low, double high, double otherwise, const char *name, status *st)
{
    const json *m = json_member(o, key);
    if (!m)
        return otherwise;
    double v = json_object_get_double(m);
    if ((json_object_is_type(m, json_type_int) || json_object_is_type(m, json_type_double)) && v >= low && v <= high)
        return v;
    status_set(st, STATUS_BAD_FILE, "%s: %s must be a number from %g to %g, is %.60s", name, key, low, high, json_object_to_json_string((json *)(uintptr_t)m));
    return otherwise;
}

bool json_flag(const json *o, const char *key, bool otherwise, const char *name, status *st)
{
    const json *m = json_member(o, key);
    if (!m)
        return otherwise;
    if (json_object_is_type(m, json_type_boolean))
        return json_object_get_boolean(m);
    status_set(st, STATUS_BAD_FILE, "%s: %s must be true or false, is %.60s", name, key, json_object_to_json_string((json *)(uintptr_t)m));
    return otherwise;
}

const char *json_text(const json *o, const char *key, const char *otherwise, const char *name, status *st)
{
    const json *m = json_member(o, key);
    if (!m)
        return otherwise;
    if (json_object_is_type(m, json_type_string))
        return json_object_get_string((json *)(uintptr_t)m);
    status_set(st, STATUS_BAD_FILE, "%s: %s must be a string, is %.60s", name, key, json_object_to_json_string((json *)(uintptr_t)m));
    return otherwise;
}

int64_t json_need_int(const json *o, const char *key, int64_t low, int64_t high, const char *name, status *st)
{
    if (!json_member(o, key))
        status_set(st, STATUS_BAD_FILE, "%s: %s is missing", name, key);
    return json_int(o, key, low, high, low, name, st);
}

int json_ints(const json *o, const char *key, int64_t *out, int most, int64_t low, int64_t high, const char *name, status *st)
{
    const json *m = json_member(o, key);
    if (!m)
        return 0;
    if (json_object_is_type(m, json_type_int)) {
        out[0] = json_int(o, key, low, high, low, name, st);
        return status_ok(st) ? 1 : -1;
    }
    size_t n = json_object_is_type(m, json_type_array) ? json_object_array_length(m) : SIZE_MAX;
    if (n > (size_t)most) {
        status_set(st, STATUS_BAD_FILE, "%s: %s must be an array of at most %d numbers", name, key, most);
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        const json *e = json_object_array_get_idx(m, i);
        int64_t v = json_object_get_int64(e);
        if (!json_object_is_type(e, json_type_int) || v < low || v > high) {
            status_set(st, STATUS_BAD_FILE, "%s: %s[%zu] must be a whole number from %lld to %lld", name, key, i, (long long)low, (long long)high);
            return -1;
        }
        out[i] = v;
    }
    return (int)n;
}
