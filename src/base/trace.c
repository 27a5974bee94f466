#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/output.h"

enum { TRACE_DIMS = 8 };

typedef struct entry {
    char *name;
    float *data;
    size_t count;
    int dims;
    int64_t shape[TRACE_DIMS];
} entry;

struct trace {
    entry *entry;
    int entries, room;
};

trace *trace_open(status *st) { return mem_alloc(1, sizeof(trace), "trace", st); }

void trace_close(trace *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->entries; i++) {
        mem_free(t->entry[i].name);
        mem_free(t->entry[i].data);
    }
    mem_free(t->entry);
    mem_free(t);
}

static bool count_of(const char *name, int dims, const int64_t *shape, size_t *count, status *st)
{
    *count = 1;
    bool fits = dims >= 0 && dims <= TRACE_DIMS;
    for (int i = 0; fits && i < dims; i++)
        fits = shape[i] >= 0 && size_mul(*count, (size_t)shape[i], count);
    return fits || status_set(st, STATUS_FAILED, "trace: %s: impossible shape", name);
}

static entry *entry_named(const trace *t, const char *name)
{
    for (int i = 0; i < t->entries; i++)
        if (strcmp(t->entry[i].name, name) == 0)
            return &t->entry[i];
    return NULL;
}

/* A new entry at the end; nothing changes unless all of it could be had. */
static entry *entry_append(trace *t, const char *name, status *st)
{
    if (t->entries == t->room) {
        int room = t->room ? 2 * t->room : 32;
        entry *larger = mem_resize(t->entry, (size_t)room, sizeof(entry), "trace", st);
        if (!larger)
            return NULL;
        t->entry = larger;
        t->room = room;
    }
    entry *e = &t->entry[t->entries];
    *e = (entry){.name = mem_string(name, st)};
    if (!e->name)
        return NULL;
    t->entries++;
    return e;
}

bool trace_add(trace *t, const char *name, const float *data, int dims, const int64_t *shape, status *st)
{
    size_t count;
    if (!t)
        return true;
    if (!status_ok(st) || !count_of(name, dims, shape, &count, st))
        return false;
    float *copy = mem_alloc(count, sizeof(float), "trace", st);
    if (!copy)
        return false;
    memcpy(copy, data, count * sizeof(float));
    entry *e = entry_named(t, name);
    if (!e)
        e = entry_append(t, name, st);
    if (!e) {
        mem_free(copy);
        return false;
    }
    mem_free(e->data);
    e->data = copy;
    e->count = count;
    e->dims = dims;
    for (int i = 0; i < dims; i++)
        e->shape[i] = shape[i];
    return true;
}

const float *trace_find(const trace *t, const char *name, int *dims, const int64_t **shape)
{
    const entry *e = entry_named(t, name);
    if (!e)
        return NULL;
    *dims = e->dims;
    *shape = e->shape;
    return e->data;
}

/* The JSON header, into a buffer or (NULL) only measured. */
typedef struct text {
    char *out;
    size_t length;
} text;

static void put(text *t, const char *s)
{
    size_t n = strlen(s);
    if (t->out)
        memcpy(t->out + t->length, s, n);
    t->length += n;
}

static void put_name(text *t, const char *name)
{
    put(t, "\"");
    for (const char *c = name; *c; c++) {
        char one[8] = {*c, 0};
        if (*c == '"' || *c == '\\')
            snprintf(one, sizeof one, "\\%c", *c);
        else if ((unsigned char)*c < 0x20)
            snprintf(one, sizeof one, "\\u%04x", (unsigned)*c);
        put(t, one);
    }
    put(t, "\"");
}

static void put_header(const trace *t, text *out)
{
    uint64_t offset = 0;
    char number[64];
    put(out, "{");
    for (int i = 0; i < t->entries; i++) {
        const entry *e = &t->entry[i];
        put(out, i ? "," : "");
        put_name(out, e->name);
        put(out, ":{\"dtype\":\"F32\",\"shape\":[");
        for (int d = 0; d < e->dims; d++) {
            snprintf(number, sizeof number, "%s%" PRId64, d ? "," : "", e->shape[d]);
            put(out, number);
        }
        snprintf(number, sizeof number, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", offset,
                 offset + e->count * sizeof(float));
        put(out, number);
        offset += e->count * sizeof(float);
    }
    put(out, "}");
}

static char *make_header(const trace *t, size_t *bytes, status *st)
{
    text measured = {NULL, 0};
    put_header(t, &measured);
    *bytes = 8 + round_up(measured.length, 8);   /* a little-endian length; spaces until the data are aligned */
    char *header = mem_alloc(*bytes + 1, 1, "trace", st);
    if (!header)
        return NULL;
    for (int i = 0; i < 8; i++)
        header[i] = (char)((*bytes - 8) >> 8 * i);
    memset(header + 8, ' ', *bytes - 8);
    text written = {header + 8, 0};
    put_header(t, &written);
    return header;
}

bool trace_write(const trace *t, const char *path, status *st)
{
    size_t bytes;
    char *header = make_header(t, &bytes, st);
    if (!header)
        return false;
    output o;
    bool opened = output_open(&o, path, st);
    if (opened) {
        bool good = output_write(&o, header, bytes, st);
        for (int i = 0; good && i < t->entries; i++)
            good = output_write(&o, t->entry[i].data, t->entry[i].count * sizeof(float), st);
        opened = output_commit(&o, st);
    }
    mem_free(header);
    return opened;
}
