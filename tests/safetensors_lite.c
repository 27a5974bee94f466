/* safetensors_lite.c: eight bytes of header length, a JSON header, the data. */
#include "safetensors_lite.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct text {
    const char *at, *end;
} text;

typedef struct entry {
    char dtype[8];
    uint64_t begin, end;
    bool has_shape;
} entry;

static int fail(lite_file *f, const char *what, const char *name)
{
    snprintf(f->error, sizeof f->error, "%s%s%s", what, name ? " " : "", name ? name : "");
    return -1;
}

static void blanks(text *t)
{
    while (t->at < t->end && strchr(" \t\r\n", *t->at))
        t->at++;
}

static bool take(text *t, char c)
{
    blanks(t);
    if (t->at >= t->end || *t->at != c)
        return false;
    t->at++;
    return true;
}

/* A string without \u escapes; names of tensors have none. The caller frees. */
static char *string(text *t)
{
    if (!take(t, '"'))
        return NULL;
    char *out = malloc((size_t)(t->end - t->at) + 1), *to = out;
    while (out && t->at < t->end && *t->at != '"') {
        if ((unsigned char)*t->at < 0x20)
            break;
        if (*t->at == '\\' && (++t->at == t->end || !strchr("\"\\/", *t->at)))
            break;
        *to++ = *t->at++;
    }
    if (!out || t->at >= t->end || *t->at != '"') {
        free(out);
        return NULL;
    }
    t->at++;
    *to = 0;
    return out;
}

static bool number(text *t, uint64_t *out)
{
    blanks(t);
    const char *start = t->at;
    for (*out = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++) {
        if (*out > (UINT64_MAX - 9) / 10)
            return false;
        *out = *out * 10 + (uint64_t)(*t->at - '0');
    }
    return t->at > start && (t->at - start == 1 || *start != '0');
}

static bool metadata(text *t)
{
    if (!take(t, '{'))
        return false;
    if (take(t, '}'))
        return true;
    do {
        char *key = string(t);
        bool good = key && take(t, ':');
        char *value = good ? string(t) : NULL;
        free(key);
        free(value);
        if (!value)
            return false;
    } while (take(t, ','));
    return take(t, '}');
}

static bool field(text *t, lite_tensor *out, entry *e)
{
    char *key = string(t), *word = NULL;
    uint64_t n = 0;
    bool good = key && take(t, ':');
    if (good && strcmp(key, "dtype") == 0 && !*e->dtype) {
        word = string(t);
        good = word && *word && strlen(word) < sizeof e->dtype;
        if (good)
            strcpy(e->dtype, word);
    } else if (good && strcmp(key, "shape") == 0 && !e->has_shape) {
        e->has_shape = true;
        good = take(t, '[');
        if (good && !take(t, ']')) {
            do {
                good = out->rank < LITE_RANK && number(t, &n) && n <= INT64_MAX;
                if (good)
                    out->shape[out->rank++] = (int64_t)n;
            } while (good && take(t, ','));
            good = good && take(t, ']');
        }
    } else if (good && strcmp(key, "data_offsets") == 0 && e->end == UINT64_MAX) {
        good = take(t, '[') && number(t, &e->begin) && take(t, ',') && number(t, &e->end) && take(t, ']') && e->begin <= e->end;
    } else {
        good = false;
    }
    free(key);
    free(word);
    return good;
}

static float half(uint16_t h)
{
    int exponent = h >> 10 & 31, fraction = h & 1023;
    float value = exponent == 31 ? (fraction ? NAN : INFINITY)
                  : exponent     ? ldexpf((float)(1024 + fraction), exponent - 25)
                                 : ldexpf((float)fraction, -24);
    return h & 0x8000 ? -value : value;
}

static size_t width(const char *dtype)
{
    static const struct { const char *name; size_t bytes; } types[] = {
        {"F64", 8}, {"I64", 8}, {"F32", 4}, {"I32", 4}, {"F16", 2}, {"BF16", 2}, {"U8", 1}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(dtype, types[i].name) == 0)
            return types[i].bytes;
    return 0;
}

/* The data is little endian; so are the machines that run the tests. */
static float convert(const char *dtype, const unsigned char *p)
{
    union { double f64; int64_t i64; float f32; int32_t i32; uint16_t u16; uint32_t u32; } v;
    memcpy(&v, p, width(dtype));
    if (strcmp(dtype, "F64") == 0)
        return (float)v.f64;
    if (strcmp(dtype, "I64") == 0)
        return (float)v.i64;
    if (strcmp(dtype, "F32") == 0)
        return v.f32;
    if (strcmp(dtype, "I32") == 0)
        return (float)v.i32;
    if (strcmp(dtype, "F16") == 0)
        return half(v.u16);
    if (strcmp(dtype, "BF16") == 0) {
        v.u32 = (uint32_t)v.u16 << 16;
        return v.f32;
    }
    return *p;
}

static int tensor(lite_file *f, text *t, char *name, const unsigned char *data, uint64_t data_bytes, uint64_t *covered)
{
    if (lite_find(f, name)) {
        fail(f, "named twice:", name);
        free(name);
        return -1;
    }
    lite_tensor *grown = realloc(f->tensors, (f->count + 1) * sizeof *grown);
    if (!grown) {
        free(name);
        return fail(f, "out of memory", NULL);
    }
    f->tensors = grown;
    lite_tensor *out = &f->tensors[f->count++];
    *out = (lite_tensor){.name = name};
    entry e = {.begin = 0, .end = UINT64_MAX};
    if (!take(t, '{'))
        return fail(f, "no object for", name);
    do {
        if (!field(t, out, &e))
            return fail(f, "malformed field of", name);
    } while (take(t, ','));
    if (!take(t, '}') || !*e.dtype || !e.has_shape || e.end == UINT64_MAX)
        return fail(f, "incomplete:", name);
    if (e.end > data_bytes)
        return fail(f, "beyond the end of the file:", name);
    size_t bytes = width(e.dtype);
    if (!bytes)
        return fail(f, "unknown dtype of", name);
    out->count = 1;
    for (int i = 0; i < out->rank; i++) {
        if (out->shape[i] && out->count > SIZE_MAX / bytes / (uint64_t)out->shape[i])
            return fail(f, "too large:", name);
        out->count *= (size_t)out->shape[i];
    }
    if (out->count * bytes != e.end - e.begin)
        return fail(f, "size and shape differ:", name);
    out->values = malloc(out->count ? out->count * sizeof(float) : 1);
    if (!out->values)
        return fail(f, "out of memory", NULL);
    for (size_t i = 0; i < out->count; i++)
        out->values[i] = convert(e.dtype, data + e.begin + i * bytes);
    /* Every byte belongs to one tensor: as many bytes as data, and no two tensors begin alike. */
    *covered += e.end - e.begin;
    return 0;
}

static int parse(lite_file *f, const unsigned char *bytes, size_t size)
{
    uint64_t header = 0, covered = 0;
    if (size < 8)
        return fail(f, "shorter than eight bytes", NULL);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | bytes[i];
    if (header > size - 8)
        return fail(f, "header goes beyond the end of the file", NULL);
    text t = {(const char *)bytes + 8, (const char *)bytes + 8 + header};
    if (!take(&t, '{'))
        return fail(f, "header is no object", NULL);
    if (!take(&t, '}')) {
        do {
            char *name = string(&t);
            if (!name || !take(&t, ':')) {
                free(name);
                return fail(f, "malformed name", NULL);
            }
            if (strcmp(name, "__metadata__") == 0) {
                free(name);
                if (!metadata(&t))
                    return fail(f, "malformed metadata", NULL);
            } else if (tensor(f, &t, name, bytes + 8 + header, size - 8 - header, &covered)) {
                return -1;
            }
        } while (take(&t, ','));
        if (!take(&t, '}'))
            return fail(f, "header does not end", NULL);
    }
    blanks(&t);
    if (t.at != t.end)
        return fail(f, "something after the header's object", NULL);
    if (covered != size - 8 - header)
        return fail(f, "gaps, overlaps or bytes after the end", NULL);
    return 0;
}

int lite_open(lite_file *f, const char *path)
{
    *f = (lite_file){0};
    FILE *in = fopen(path, "rb");
    if (!in)
        return fail(f, "cannot be opened", NULL);
    unsigned char *bytes = NULL;
    size_t size = 0, room = 0, got;
    do {
        if (size == room) {
            room = room ? room * 2 : 1 << 16;
            unsigned char *grown = realloc(bytes, room);
            if (!grown) {
                free(bytes);
                fclose(in);
                return fail(f, "out of memory", NULL);
            }
            bytes = grown;
        }
        got = fread(bytes + size, 1, room - size, in);
        size += got;
    } while (got);
    int failed = ferror(in) ? fail(f, "cannot be read", NULL) : parse(f, bytes, size);
    fclose(in);
    free(bytes);
    return failed;
}

void lite_close(lite_file *f)
{
    for (size_t i = 0; i < f->count; i++) {
        free(f->tensors[i].name);
        free(f->tensors[i].values);
    }
    free(f->tensors);
    f->tensors = NULL;
    f->count = 0;
}

const lite_tensor *lite_find(const lite_file *f, const char *name)
{
    for (size_t i = 0; i < f->count; i++)
        if (strcmp(f->tensors[i].name, name) == 0)
            return &f->tensors[i];
    return NULL;
}
