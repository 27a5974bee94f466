#define _GNU_SOURCE
#include "tests/pack_sample.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "quant/encode.h"

const sample samples[SAMPLES] = {
    {"text_encoder", "shared.weight", TYPE_Q8_ROWS, {1000, 1, 64}, ROLE_EMBEDDING},
    {"text_encoder", "a.weight", TYPE_Q4, {256, 1, 256}, ROLE_LINEAR},
    {"text_encoder", "a.bias", TYPE_F32, {1, 1, 256}, ROLE_VECTOR},
    {"unet", "conv_in.weight", TYPE_F16, {64, 9, 4}, ROLE_EDGE},
    {"unet", "big.weight", TYPE_Q4, {2500, 1, 8192}, ROLE_LINEAR}, /* three parts, the last panel not full */
    {"unet", "middle.weight", TYPE_Q8, {1040, 1, 2048}, ROLE_LINEAR}, /* an extent of its own */
    {"unet", "big.bias", TYPE_F32, {1, 1, 2500}, ROLE_VECTOR},
    {"unet", "small.weight", TYPE_Q4, {33, 9, 64}, ROLE_CONV},
    {"unet", "small.bias", TYPE_F32, {1, 1, 33}, ROLE_VECTOR},
    {"vae", "w", TYPE_BF16, {64, 9, 16}, ROLE_CONV},
    {"vae", "finer.weight", TYPE_Q5, {500, 9, 256}, ROLE_CONV},
};
uint8_t byte_at(int tensor, uint64_t i) { return (uint8_t)((i * 2654435761u + (uint64_t)tensor * 97) >> 7); }

uint64_t unit_bytes_of(const sample *s) { return type_unit_bytes(s->type, &s->m); }

int64_t units_of(const sample *s)
{
    int step = type_unit_rows(s->type);
    return (s->m.rows + step - 1) / step;
}

bool write_sample(pack_writer *w, int n, status *st)
{
    const sample *s = &samples[n];
    pack_tensor t = {.component = s->component, .name = s->name, .type = s->type, .dims = 1, .matrix = s->m, .role = s->role,
                     .rotation = type_of(s->type)->panels ? rotation_block(s->m.depth) : 0};
    t.shape[0] = s->m.rows * s->m.taps * s->m.depth;
    uint8_t head[CODE_HEAD_BYTES];
    code_tables(TYPE_Q4, n % CODE_RANGES, head);
    uint64_t unit = unit_bytes_of(s), step = (uint64_t)type_unit_rows(s->type);
    uint8_t *bytes = mem_alloc(7, unit, "test", st);
    bool ok = bytes && pack_begin(w, &t, head, st);
    for (int64_t u = 0; ok && u < units_of(s); u += 7) { /* seven units at a time, whatever the parts are */
        int64_t count = units_of(s) - u < 7 ? units_of(s) - u : 7, rows = count * (int64_t)step;
        if (u * (int64_t)step + rows > s->m.rows)
            rows = s->m.rows - u * (int64_t)step;
        for (uint64_t i = 0; i < (uint64_t)count * unit; i++)
            bytes[i] = byte_at(n, (uint64_t)u * unit + i);
        ok = pack_rows(w, bytes, rows, st);
    }
    mem_free(bytes);
    return ok && pack_end(w, s->type == TYPE_F32 ? NAN : 0.0712f, st);
}

bool write_model(const char *path, status *st)
{
    pack_writer *w = pack_create(path, st);
    if (!w)
        return false;
    char *large = mem_alloc(2 << 20, 1, "test", st);
    if (large)
        memset(large, 'x', 2 << 20);
    bool ok = large && pack_file(w, "model_index.json", "{\"a\": 1}\n", 9, st) && pack_file(w, "empty.txt", "", 0, st) &&
              pack_file(w, "tokenizer/spiece.model", large, 2 << 20, st) && pack_file(w, "unet/config.json", "{}", 2, st);
    mem_free(large);
    for (int i = 0; ok && i < SAMPLES; i++)
        ok = write_sample(w, i, st);
    return pack_commit(w, st) && ok;
}

char folder[] = "/tmp/penstock-pack-XXXXXX";
char model[64];

void pack_sample_remove(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", folder);
    if (system(command) != 0)
        fprintf(stderr, "%s stays behind\n", folder);
}

void pack_sample_folder(void)
{
    cr_assert(mkdtemp(folder));
    snprintf(model, sizeof model, "%s/m.penstock", folder);
}

void pack_sample_make(void)
{
    status st = STATUS_INIT;
    pack_sample_folder();
    cr_assert(write_model(model, &st), "%s", st.text);
}
