/* The container read back, and every way in which a file can be wrong. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/mem.h"
#include "quant/encode.h"
#include "tests/pack_sample.h"
#include "weights/pack_format.h"

TestSuite(pack, .init = pack_sample_make, .fini = pack_sample_remove);

/* ---- the whole file in memory, to alter it ---- */

static uint8_t *load(size_t *bytes)
{
    status st = STATUS_INIT;
    struct stat info;
    int fd = open(model, O_RDONLY);
    cr_assert(fd >= 0 && fstat(fd, &info) == 0);
    *bytes = (size_t)info.st_size;
    uint8_t *data = mem_alloc(*bytes, 1, "test", &st);
    cr_assert_eq(read(fd, data, *bytes), info.st_size);
    close(fd);
    return data;
}

static void store(const uint8_t *data, size_t bytes)
{
    int fd = open(model, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, data, bytes) == (ssize_t)bytes);
    close(fd);
}

/* Opening fails, and says why: the text holds `says`. */
static void refuse(const char *says)
{
    status st = STATUS_INIT;
    source *s = source_open_pack(model, &st);
    cr_assert_null(s, "opened, though %s", says);
    cr_assert_eq(st.code, STATUS_BAD_FILE);
    cr_assert(strstr(st.text, says), "says \"%s\", not \"%s\"", st.text, says);
}

static uint64_t preamble_at(const uint8_t *data, int at, int bytes) { return get_le(data + at, bytes); }

static void seal(uint8_t *data) { put_le(data + AT_PREAMBLE_XXH3, 8, XXH3_64bits(data, AT_PREAMBLE_XXH3)); }

/* Write the model with another header in the place of its own; everything that seals it is right. */
static void store_with_header(const uint8_t *data, const char *header)
{
    status st = STATUS_INIT;
    size_t offset = (size_t)preamble_at(data, AT_HEADER_OFFSET, 8), n = strlen(header);
    uint8_t *new = mem_alloc(offset + n, 1, "test", &st);
    memcpy(new, data, offset);
    memcpy(new + offset, header, n);
    put_le(new + AT_HEADER_BYTES, 8, n);
    put_le(new + AT_HEADER_XXH3, 8, XXH3_64bits(header, n));
    put_le(new + AT_FILE_BYTES, 8, offset + n);
    seal(new);
    store(new, offset + n);
    mem_free(new);
}

static char *header_of(const uint8_t *data)
{
    status st = STATUS_INIT;
    size_t n = (size_t)preamble_at(data, AT_HEADER_BYTES, 8);
    char *text = mem_alloc(n + 1, 1, "test", &st);
    memcpy(text, data + preamble_at(data, AT_HEADER_OFFSET, 8), n);
    return text;
}

/* The header with the first `from` behind `after` replaced by `to`. */
static char *replaced(const char *header, const char *after, const char *from, const char *to)
{
    status st = STATUS_INIT;
    const char *start = strstr(header, after), *at = start ? strstr(start, from) : NULL;
    cr_assert(at, "the header has no %s behind %s", from, after);
    return mem_format(&st, "%.*s%s%s", (int)(at - header), header, to, at + strlen(from));
}

/* ---- right ---- */

Test(pack, round_trip)
{
    status st = STATUS_INIT;
    source *s = source_open_pack(model, &st);
    cr_assert(s, "%s", st.text);
    cr_assert(s->container && s->components == 3 && s->weights == SAMPLES && s->blobs == 4 && s->hash != 0);
    cr_assert_str_eq(s->component[0], "text_encoder");
    for (int n = 0; n < SAMPLES; n++) {
        const weight *w = source_find(s, samples[n].component, samples[n].name);
        cr_assert(w && w->type == samples[n].type && w->matrix.rows == samples[n].m.rows && !w->oihw);
        int block = type_of(w->type)->panels ? rotation_block(w->matrix.depth) : 0;
        cr_assert_eq(w->rotation_log2 ? 1 << w->rotation_log2 : 0, block);
        cr_assert(w->type == TYPE_F32 ? isnan(w->error) : fabsf(w->error - 0.0712f) < 1e-6f);
        uint64_t head = type_head_bytes(w->type), at = 0;
        int64_t row = 0;
        uint8_t tables[CODE_HEAD_BYTES];
        code_tables(TYPE_Q4, n % CODE_RANGES, tables);
        for (int p = 0; p < w->parts; p++) {
            const weight_part *part = &w->part[p];
            cr_assert_eq(part->first_row, row);
            cr_assert_eq(part->offset % 64, 0);
            uint8_t *data = mem_alloc(part->bytes, 1, "test", &st);
            cr_assert(io_read(s->file[w->file], part->offset, data, part->bytes, &st));
            cr_assert_arr_eq(data, tables, head);
            for (uint64_t i = head; i < part->bytes; i++, at++)
                cr_assert_eq(data[i], byte_at(n, at), "%s part %d byte %d", w->name, p, (int)i);
            row += part->rows;
            mem_free(data);
        }
        cr_assert_eq(row, w->matrix.rows);
    }
    const weight *big = source_find(s, "unet", "big.weight");
    cr_assert_eq(big->parts, 3);
    cr_assert_eq(source_find(s, "unet", "middle.weight")->parts, 1);
    size_t bytes;
    char *text = source_read_blob(s, "model_index.json", 100, false, &bytes, &st);
    cr_assert_str_eq(text, "{\"a\": 1}\n");
    mem_free(text);
    text = source_read_blob(s, "empty.txt", 100, false, &bytes, &st);
    cr_assert(text && bytes == 0);
    mem_free(text);
    text = source_read_blob(s, "tokenizer/spiece.model", 4 << 20, false, &bytes, &st);
    cr_assert(text && bytes == 2 << 20);
    mem_free(text);
    cr_assert(pack_verify(s, NULL, NULL, &st), "%s", st.text);
    source_close(s);
    cr_assert_eq(mem_in_use(), 0);
}

/* Padding may cost a few percent, not more. */
Test(pack, extents_are_aligned_and_dense)
{
    status st = STATUS_INIT;
    source *s = source_open_pack(model, &st);
    uint64_t bytes = 0;
    for (int i = 0; i < s->extents; i++) {
        cr_assert_eq(s->extent[i].offset % PACK_ALIGN, 0);
        cr_assert(s->extent[i].bytes <= PACK_PART_BYTES);
        bytes += s->extent[i].bytes;
    }
    cr_assert(io_size(s->file[0]) < bytes + (uint64_t)s->extents * PACK_ALIGN + 100000);
    source_close(s);
}

/* What a newer version may add is passed over. */
Test(pack, unknown_members_of_a_newer_version)
{
    size_t bytes;
    status st = STATUS_INIT;
    uint8_t *data = load(&bytes);
    char *header = header_of(data), *new = replaced(header, "{", "{", "{\"later\":[1,{\"x\":null}],"), *more = replaced(new, "a.weight", "\"type\"", "\"also\":5,\"type\"");
    put_le(data + AT_VERSION, 4, PACK_VERSION + 1); /* least reader: still 1 */
    store_with_header(data, more);
    source *s = source_open_pack(model, &st);
    cr_assert(s, "%s", st.text);
    source_close(s);
    mem_free(data);
    mem_free(header);
    mem_free(new);
    mem_free(more);
}

/* ---- wrong ---- */

Test(pack, truncated_anywhere)
{
    size_t bytes;
    uint8_t *data = load(&bytes);
    char says[100];
    for (size_t i = 1; i < 64; i++) {
        store(data, bytes * i / 64);
        snprintf(says, sizeof says, "truncated: has %zu bytes, the container needs %zu", bytes * i / 64, bytes);
        refuse(says);
    }
    for (size_t n = 1; n < 64; n++) {
        store(data, n);
        refuse("truncated");
    }
    store(data, bytes - 1);
    refuse("truncated");
    store(data, 0);
    refuse("is no penstock container");
    mem_free(data);
}

Test(pack, every_byte_of_the_preamble)
{
    size_t bytes;
    uint8_t *data = load(&bytes);
    for (int i = 0; i < PACK_PREAMBLE_BYTES; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            data[i] ^= (uint8_t)(1 << bit);
            store(data, bytes);
            refuse("m.penstock: ");
            data[i] ^= (uint8_t)(1 << bit);
        }
    mem_free(data);
}

Test(pack, newer_version)
{
    size_t bytes;
    uint8_t *data = load(&bytes);
    put_le(data + AT_VERSION, 4, 3);
    put_le(data + AT_LEAST_READER, 4, 2);
    store(data, bytes); /* said even when the rest cannot be checked */
    refuse("format version 3, which needs a penstock that reads version 2");
    mem_free(data);
}

Test(pack, sealed_preamble_with_wrong_numbers)
{
    size_t bytes;
    uint8_t *data = load(&bytes), saved[PACK_PREAMBLE_BYTES];
    memcpy(saved, data, sizeof saved);
    const struct { int at; uint64_t value; const char *says; } cases[] = {
        {AT_FILE_BYTES, bytes + 1, "truncated"}, {AT_FILE_BYTES, bytes - 1, "ends at"}, {AT_FILE_BYTES, UINT64_MAX, "truncated"},
        {AT_HEADER_OFFSET, 0, "damaged"}, {AT_HEADER_OFFSET, UINT64_MAX, "damaged"}, {AT_HEADER_OFFSET, bytes, "damaged"},
        {AT_HEADER_BYTES, UINT64_MAX, "are not read"}, {AT_HEADER_BYTES, PACK_HEADER_LIMIT + 1, "are not read"}, {AT_HEADER_BYTES, 0, "damaged"},
        {AT_HEADER_XXH3, 1, "fails its checksum"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_le(data + cases[i].at, 8, cases[i].value);
        seal(data);
        store(data, bytes);
        refuse(cases[i].says);
        memcpy(data, saved, sizeof saved);
    }
    mem_free(data);
}

Test(pack, every_byte_of_the_header)
{
    size_t bytes;
    uint8_t *data = load(&bytes);
    size_t from = (size_t)preamble_at(data, AT_HEADER_OFFSET, 8);
    for (size_t i = from; i < bytes; i += 13) {
        data[i] ^= 1;
        store(data, bytes);
        refuse("header fails its checksum");
        data[i] ^= 1;
    }
    mem_free(data);
}

/* Any byte of the data: opened, and named by verify. */
Test(pack, altered_data_is_named)
{
    status st = STATUS_INIT;
    source *s = source_open_pack(model, &st);
    uint64_t where[SAMPLES], blob = s->blob[0].offset, gap = 0;
    for (int i = 0; i < SAMPLES; i++) {
        const weight *w = source_find(s, samples[i].component, samples[i].name);
        where[i] = w->part[w->parts - 1].offset + w->part[w->parts - 1].bytes / 2;
    }
    for (int i = 1; i < s->extents; i++)
        if (s->extent[i].offset > s->extent[i - 1].offset + s->extent[i - 1].bytes)
            gap = s->extent[i].offset - 1;
    source_close(s);
    size_t bytes;
    uint8_t *data = load(&bytes);
    for (int i = 0; i < SAMPLES + 3; i++) {
        uint64_t at = i < SAMPLES ? where[i] : i == SAMPLES ? blob : i == SAMPLES + 1 ? gap : 100;
        data[at] ^= 0x10;
        store(data, bytes);
        st = (status)STATUS_INIT;
        s = source_open_pack(model, &st);
        cr_assert(s, "%s", st.text);
        cr_assert_not(pack_verify(s, NULL, NULL, &st));
        cr_assert_eq(st.code, STATUS_BAD_FILE);
        const char *says = i < SAMPLES ? samples[i].name : i == SAMPLES ? "file " : "belongs to nothing";
        cr_assert(strstr(st.text, says) || (i < SAMPLES && strstr(st.text, " others is wrong")), "%s, not %s", st.text, says);
        source_close(s);
        data[at] ^= 0x10;
    }
    mem_free(data);
}

typedef struct change { const char *after, *from, *to, *says; } change;

static const change changes[] = {
    {"{", "\"files\"", "\"fils\"", "files must be a list"},
    {"\"components\"", "[", "{\"a\":[", "not JSON"},
    {"\"components\":", "\"unet\"", "7", "component 1 has no name"},
    {"\"components\":", "\"unet\"", "\"vae\"", "component vae is there twice"},
    {"shared.weight", "\"type\":\"q8_rows\"", "\"type\":\"q3\"", "type q3 is not known"},
    {"shared.weight", "\"type\":\"q8_rows\"", "\"type\":8", "type (none) is not known"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[64001]", "does not fit its shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[0]", "no shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[-64000]", "no shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[9223372036854775807,2]", "no shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[1,1,1,1,1,1,64000]", "no shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":64000", "no shape"},
    {"shared.weight", "\"shape\":[64000]", "\"shape\":[64000.0]", "no shape"},
    {"shared.weight", "\"matrix\":[1000,1,64]", "\"matrix\":[1000,1]", "wrong number of parts"},
    {"shared.weight", "\"matrix\":[1000,1,64]", "\"matrix\":[1000,0,64]", "no matrix"},
    {"shared.weight", "\"matrix\":[1000,1,64]", "\"matrix\":[500,2,65]", "does not fit its shape"},
    {"shared.weight", "\"matrix\":[1000,1,64]", "\"matrix\":[4611686018427387903,4096,64]", "wrong number of parts"},
    {"shared.weight", "\"part_rows\":1000", "\"part_rows\":4611686018427387903", NULL}, /* harmless: still one part */
    {"shared.weight", "\"part_rows\":1000", "\"part_rows\":0", "wrong number of parts"},
    {"shared.weight", "\"part_rows\":1000", "\"part_rows\":1", "wrong number of parts"},
    {"shared.weight", "\"part_rows\":1000", "\"part_rows\":500", "does not fit its extents"},
    {"shared.weight", "\"offset\":0", "\"offset\":1", "parts that cannot be"},
    {"shared.weight", "\"offset\":0", "\"offset\":-64", "no place"},
    {"shared.weight", "\"offset\":0", "\"offset\":9223372036854775744", "does not fit its extents"},
    {"shared.weight", "\"offset\":0", "\"offset\":64", "overlap"},
    {"shared.weight", "\"extent\":", "\"extent\":1000", "no place"},
    {"shared.weight", "\"extent\":", "\"extent\":-", "no place"},
    {"shared.weight", "\"component\":0", "\"component\":3", "no component"},
    {"a.weight", "\"rotation\":256", "\"rotation\":2048", "rotation"},
    {"a.weight", "\"rotation\":256", "\"rotation\":48", "rotation"},
    {"a.weight", "\"rotation\":256", "\"rotation\":\"256\"", "rotation"},
    {"shared.weight", "\"role\"", "\"rotation\":64,\"role\"", "rotation"},
    {"{", "\"a.weight\"", "\"shared.weight\"", "is there twice"},
    {"{", "\"a.weight\"", "\"\"", "has no name"},
    {"{", "\"a.weight\"", "\"a\\u0000b\"", "has no name"},
    {"big.weight", "\"part_rows\":", "\"part_rows\":1", "parts"},
    {"{", "\"model_index.json\"", "\"../model_index.json\"", "no place"},
    {"{", "\"model_index.json\"", "\"/etc/passwd\"", "no place"},
    {"{", "\"model_index.json\"", "\"unet/config.json\"", "is there twice"},
    {"model_index.json", "\"bytes\":9", "\"bytes\":9000000", "no place"},
    {"model_index.json", "\"bytes\":9", "\"bytes\":-9", "no place"},
    {"model_index.json", "\"bytes\":9", "\"bytes\":130", "overlap"},
    {"\"extents\":[", "65536", "65540", "is not aligned"},
    {"\"extents\":[", "65536", "0", "overlaps"},
    {"\"extents\":[", "65536", "9223372036854710272", "reaches over"},
    {"\"extents\":[", "65536,", "65536,-", "is not [offset"},
    {"\"extents\":[", "65536,", "65536,1", "overlaps"},
    {"\"extents\":[", "65536,", "65536,922337203685477", "reaches over"},
    {"\"extents\":[", "\"]]}", "0\"]]}", "is not [offset"},
};

Test(pack, sealed_headers_that_lie)
{
    size_t bytes;
    uint8_t *data = load(&bytes);
    char *header = header_of(data);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        const change *c = &changes[i];
        /* a name stands behind "component" in its object: look from the object's beginning */
        char *new = NULL;
        const char *at = strstr(header, c->after);
        while (at && at > header && *at != '{')
            at--;
        char *tail = replaced(at ? at : header, "", c->from, c->to);
        status st = STATUS_INIT;
        new = mem_format(&st, "%.*s%s", (int)((at ? at : header) - header), header, tail);
        store_with_header(data, new);
        if (c->says)
            refuse(c->says);
        else {
            source *s = source_open_pack(model, &st);
            cr_assert(s, "%s", st.text);
            source_close(s);
        }
        mem_free(tail);
        mem_free(new);
    }
    const char *others[] = {"", "[]", "7", "{", "{}", "null", "{\"files\":[],\"components\":[],\"tensors\":[null],\"extents\":[]}"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        store_with_header(data, others[i]);
        refuse("m.penstock");
    }
    mem_free(header);
    mem_free(data);
    cr_assert_eq(mem_in_use(), 0);
}

Test(pack, an_empty_container_is_one)
{
    size_t bytes;
    status st = STATUS_INIT;
    uint8_t *data = load(&bytes);
    store_with_header(data, "{\"files\":[],\"components\":[],\"tensors\":[],\"extents\":[]}");
    source *s = source_open_pack(model, &st);
    cr_assert(s, "%s", st.text);
    source_close(s);
    mem_free(data);
}

Test(pack, memory_that_runs_out)
{
    for (long n = 1; n < 40; n++) {
        status st = STATUS_INIT;
        mem_fail_at(n);
        source *s = source_open_pack(model, &st);
        if (s)
            s = (pack_verify(s, NULL, NULL, &st), source_close(s), NULL);
        mem_fail_at(0);
        cr_assert(st.code == STATUS_OK || st.code == STATUS_FAILED, "%ld: %s", n, st.text);
        cr_assert_eq(mem_in_use(), 0);
    }
}
