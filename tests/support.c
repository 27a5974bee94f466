#define _GNU_SOURCE
#include "tests/support.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"

/* ---- fixtures ---- */

const char *fixture_path(const char *folder, const char *name)
{
    static char path[8][1024];
    static int turn;
    const char *fixtures = getenv("PENSTOCK_FIXTURES");
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s%s%s", fixtures ? fixtures : "tests/fixtures", folder, *folder ? "/" : "", name);
    return p;
}

bool fixture_exists(const char *folder, const char *name) { return access(fixture_path(folder, name), R_OK) == 0; }

FILE *fixture_open(const char *folder, const char *name)
{
    const char *path = fixture_path(folder, name);
    FILE *f = fopen(path, "rb");
    cr_assert(f, "cannot open %s (set PENSTOCK_FIXTURES)", path);
    return f;
}

file_bytes fixture_read(const char *folder, const char *name)
{
    FILE *f = fixture_open(folder, name);
    cr_assert_eq(fseek(f, 0, SEEK_END), 0);
    file_bytes b = {.bytes = (size_t)ftell(f)};
    rewind(f);
    b.data = calloc(b.bytes + 1, 1);
    cr_assert(b.data);
    take(f, b.data, b.bytes);
    fclose(f);
    return b;
}

void take(FILE *f, void *out, size_t bytes) { cr_assert_eq(fread(out, 1, bytes, f), bytes, "the fixture is short"); }

void unescape(char *text)
{
    char *to = text;
    for (char *p = text; *p; to++) {
        unsigned byte;
        if (p[0] == '\\' && sscanf(p, "\\x%2x", &byte) == 1) {
            *to = (char)byte;
            p += 4;
        } else {
            *to = *p++;
        }
    }
    *to = 0;
}

/* ---- files in memory ---- */

static int64_t bytes_read(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const file_bytes *b = ctx;
    size_t n = offset >= b->bytes ? 0 : b->bytes - offset < bytes ? (size_t)(b->bytes - offset) : bytes;
    memcpy(out, b->data + offset, n);
    return (int64_t)n;
}

io *io_of_bytes(const file_bytes *b, uint64_t size, const char *name)
{
    status st = STATUS_INIT;
    io *f = io_custom(name, size, &(io_vtable){bytes_read, NULL}, (void *)(uintptr_t)b, &st);
    cr_assert(f, "%s", st.text);
    return f;
}

/* ---- sentences ---- */

void check_sentence(const status *st, const char *word)
{
    cr_expect_eq(st->code, STATUS_BAD_FILE, "%d: %s", st->code, st->text);
    cr_expect(strstr(st->text, word), "'%s' lacks '%s'", st->text, word);
    cr_expect(!strchr(st->text, '\n') && strlen(st->text) > 10, "'%s'", st->text);
}

/* ---- numbers ---- */

uint64_t seed_state = 1;

double uniform(void)
{
    seed_state = seed_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(seed_state >> 11) + 0.5) / 9007199254740992.0;
}

float gaussian(void) { return (float)(sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform())); }

void *room(size_t n, size_t size)
{
    status st = STATUS_INIT;
    void *p = mem_alloc(n, size, "test", &st);
    cr_assert(p, "%s", st.text);
    return p;
}

double relative_error(const float *got, const float *want, size_t n)
{
    double error = 0, energy = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        energy += (double)want[i] * want[i];
    }
    return sqrt(error / energy);
}
