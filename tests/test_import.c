/* test_import.c: checkpoints of other tools: what their own packages read in them, and every kind of damage. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "import/table.h"
#include "tests/import_bytes.h"
#include "tests/support.h"
#include "weights/source.h"

/* ---- what the reference reads ---- */

/* zlib's */
static uint32_t crc_of(const uint8_t *p, size_t n)
{
    uint32_t crc = ~0u;
    while (n--) {
        crc ^= *p++;
        for (int k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* All bytes, read in pieces that end anywhere. */
static uint32_t crc_of_weight(const source *s, const weight *w, size_t piece)
{
    status st = STATUS_INIT;
    size_t bytes = (size_t)w->part->bytes;
    uint8_t *data = malloc(bytes + 1);
    for (size_t at = 0; at < bytes; at += piece)
        cr_assert(io_read(s->file[w->file], w->part->offset + at, data + at, bytes - at < piece ? bytes - at : piece, &st), "%s", st.text);
    uint32_t crc = crc_of(data, bytes);
    free(data);
    return crc;
}

static void shape_of(const weight *w, char out[128])
{
    int n = 0;
    strcpy(out, "-");
    for (int i = 0; i < w->dims; i++)
        n += sprintf(out + n, "%s%" PRId64, i ? "x" : "", w->shape[i]);
}

/* Every line of NAME.tsv is a weight of the source, and there are no others. Trailing ones of a shape do not count. */
static void same_as_reference(const source *s, const char *name)
{
    static const size_t pieces[] = {SIZE_MAX, 4096, 1000, 333, 7};
    char file[128], line[1024], shape[128];
    int lines = 0;
    snprintf(file, sizeof file, "%s.tsv", name);
    FILE *f = fopen(fixture_path("import", file), "r");
    cr_assert(f, "%s", fixture_path("import", file));
    while (fgets(line, sizeof line, f)) {
        char *field[5], *p = line;
        for (int i = 0; i < 5; i++)
            field[i] = strsep(&p, "\t\n");
        const weight *w = source_find(s, field[0], field[1]);
        cr_assert(w, "%s: %s/%s", name, field[0], field[1]);
        shape_of(w, shape);
        cr_expect_str_eq(type_of(w->type)->name, field[2], "%s: %s", name, field[1]);
        cr_expect_str_eq(shape, field[3], "%s: %s", name, field[1]);
        cr_expect_eq(w->parts, 1);
        for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
            cr_expect_eq(crc_of_weight(s, w, pieces[i]), (uint32_t)strtoul(field[4], NULL, 16), "%s: %s/%s, pieces of %zu", name, field[0], field[1], pieces[i]);
        lines++;
    }
    fclose(f);
    cr_expect_eq(lines, s->weights, "%s: %d of %d", name, lines, s->weights);
    cr_expect_gt(lines, 0);
}

static void check_model(const char *file, const char *table)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    source *s = source_open(fixture_path("import", file), &st);
    cr_assert(s, "%s: %s", file, st.text);
    same_as_reference(s, table);
    source_close(s);
    cr_expect_eq(mem_in_use(), before);
}

Test(import, torch_types) { check_model("types.pth", "types"); }
Test(import, torch_nested) { check_model("nested.ckpt", "nested"); }
Test(import, folder_of_pickles) { check_model("folder", "folder"); }
Test(import, gguf_types) { check_model("types.gguf", "types_gguf"); }

/* Names of latent-diffusion's own code become diffusers', as its single_file_utils.py has it. */
Test(import, sd1_file) { check_model("sd1.safetensors", "sd1"); }
Test(import, sd1_trainers_file) { check_model("sd1_trainer.ckpt", "sd1_trainer"); }
Test(import, sd2_file) { check_model("sd2.safetensors", "sd2"); }
Test(import, xl_file) { check_model("xl.safetensors", "xl"); }
Test(import, refiner_file) { check_model("refiner.safetensors", "refiner"); }
Test(import, unet_alone) { check_model("unet_alone.gguf", "unet_alone"); }
Test(import, sd_cpp_file) { check_model("sd_cpp.gguf", "sd_cpp"); }
Test(import, t5_of_llama_cpp) { check_model("t5.gguf", "t5"); }
Test(import, vae_alone) { check_model("vae_alone.safetensors", "vae_alone"); }

Test(import, block_formats_keep_their_names)
{
    status st = STATUS_INIT;
    source *s = source_open(fixture_path("import", "types.gguf"), &st);
    cr_assert(s, "%s", st.text);
    const weight *w = source_find(s, "", "Q4_K"), *plain = source_find(s, "", "plain.f16");
    cr_assert(w && plain);
    cr_expect(w->stored && strcmp(w->stored, "Q4_K") == 0 && w->stored_bytes == 6 * 144 && w->part->bytes == 6 * 256 * 4);
    cr_expect(!plain->stored && io_can_map(s->file[plain->file]) && !io_can_map(s->file[w->file]));
    source_close(s);
}

static void check_blob(const source *s, const char *name, const char *word)
{
    status st = STATUS_INIT;
    size_t bytes;
    char *text = source_read_blob(s, name, 1 << 20, false, &bytes, &st);
    cr_assert(text, "%s: %s", name, st.text);
    cr_expect(strstr(text, word), "%s lacks %s", name, word);
    mem_free(text);
}

/* They lie in the folder beside it (or ship: tests/cli_cases.sh). */
Test(import, small_files_of_a_single_file)
{
    status st = STATUS_INIT, missing = STATUS_INIT;
    size_t bytes;
    source *s = source_open(fixture_path("import", "sd1.safetensors"), &st);
    cr_assert(s && s->single && s->components == 3, "%s", st.text);
    check_blob(s, "unet/config.json", "\"cross_attention_dim\": 12");
    cr_expect_null(source_read_blob(s, "tokenizer/vocab.json", 100, false, &bytes, &missing));
    cr_expect(missing.code == STATUS_BAD_FILE && strstr(missing.text, "brings no tokenizer/vocab.json"), "%s", missing.text);
    source_close(s);
    s = source_open(fixture_path("import", "vae_alone.safetensors"), &st);
    cr_assert(s && s->components == 1);
    check_blob(s, "config.json", "\"_class_name\": \"AutoencoderKL\"");
    source_close(s);
}

/* ---- names that do not keep what they promise ---- */

static void refused_file(const char *header, size_t data, const char *word)
{
    char path[] = "/tmp/penstock-import-XXXXXX.safetensors";
    int fd = mkstemps(path, 12);
    size_t n = strlen(header), before = mem_in_use();
    uint8_t bytes[4096] = {0};
    status st = STATUS_INIT;
    cr_assert(fd >= 0 && 8 + n + data <= sizeof bytes);
    bytes[0] = (uint8_t)n;
    bytes[1] = (uint8_t)(n >> 8);
    memcpy(bytes + 8, header, n);
    cr_assert_eq(write(fd, bytes, 8 + n + data), (ssize_t)(8 + n + data));
    close(fd);
    source *s = source_open(path, &st);
    unlink(path);
    cr_expect_eq(s == NULL, *word != 0, "%s: %s", word, st.text);
    cr_expect(!*word || (st.code == STATUS_BAD_FILE && strstr(st.text, word)), "'%s' lacks '%s'", st.text, word);
    source_close(s);
    cr_expect_eq(mem_in_use(), before);
}

Test(import, names_that_lie)
{
#define WEIGHT(name, shape, bytes) "{\"" name "\":{\"dtype\":\"U8\",\"shape\":" shape ",\"data_offsets\":[0," #bytes "]}}"
    refused_file(WEIGHT("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "[6,2]", 12), 12, "");
    refused_file(WEIGHT("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "[4,2]", 8), 8, "three equal parts");
    refused_file(WEIGHT("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "[]", 1), 1, "three equal parts");
    refused_file(WEIGHT("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", "[0]", 0), 0, "three equal parts");
    refused_file(WEIGHT("cond_stage_model.model.text_projection", "[4]", 4), 4, "is no matrix");
    refused_file(WEIGHT("cond_stage_model.model.text_projection", "[0,4]", 0), 0, "");
    refused_file(WEIGHT("cond_stage_model.model.", "[4]", 4), 4, "");
    refused_file(WEIGHT("model.diffusion_model.input_blocks.0.0.weight", "[4]", 4), 4, "");
    refused_file(WEIGHT("first_stage_model.decoder.up.999999999999.block.0.norm1.weight", "[4]", 4), 4, "");
    refused_file(WEIGHT("1.conv.4.weight", "[4]", 4), 4, "");
    refused_file(WEIGHT("0.weight", "[4]", 4), 4, "");
    refused_file("{}", 0, "");
}

/* ---- damage ---- */

static void sound_or_one_sentence(const uint8_t *bytes, size_t count, bool must_fail, const char *what)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    tensor_table *t = table_of_bytes(bytes, count, &st);
    cr_expect(!must_fail || !t, "%s", what);
    if (!t)
        cr_expect(st.code == STATUS_BAD_FILE && strncmp(st.text, "file: ", 6) == 0 && strlen(st.text) > 10 && !strchr(st.text, '\n'), "%s: %d %s", what, st.code,
                  st.text);
    table_free(t);
    cr_expect_eq(mem_in_use(), before, "%s", what);
}

static const char *const whole[] = {"types.pth", "nested.ckpt", "types.gguf", "sd_cpp.gguf", "xl.safetensors"};

Test(import, truncated)
{
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        file_bytes b = fixture_read("import", whole[i]);
        uint8_t *raw = (uint8_t *)b.data;
        for (int k = 0; k < 64; k++)
            sound_or_one_sentence(raw, b.bytes * (size_t)k / 64, true, whole[i]);
        sound_or_one_sentence(raw, b.bytes - 33, true, whole[i]);
        free(b.data);
    }
}

/* Any byte of the headers may be anything: read, or refused, but never more than that. */
static void spoil(const char *name, size_t from, size_t to)
{
    static const uint8_t values[] = {0x00, 0xff, 0x80, 0x01, 0x7f};
    file_bytes b = fixture_read("import", name);
    uint8_t *raw = (uint8_t *)b.data;
    if (to > b.bytes)
        to = b.bytes;
    for (size_t at = from; at < to; at++) {
        uint8_t was = raw[at];
        for (size_t v = 0; v < sizeof values; v++) {
            raw[at] = values[v];
            sound_or_one_sentence(raw, b.bytes, false, name);
        }
        raw[at] = was ^ 1;
        sound_or_one_sentence(raw, b.bytes, false, name);
        raw[at] = was;
    }
    free(b.data);
}

Test(import, any_byte_of_a_gguf_header) { spoil("types.gguf", 0, 2400); }
Test(import, any_byte_of_a_pickle) { spoil("nested.ckpt", 0, 900); }
Test(import, any_byte_of_a_zip_directory) { spoil("nested.ckpt", 1700, SIZE_MAX); }

Test(import, memory_runs_out)
{
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        long n = 0;
        for (bool done = false; !done;) {
            status st = STATUS_INIT;
            mem_fail_at(++n);
            source *s = source_open(fixture_path("import", whole[i]), &st);
            mem_fail_at(0);
            done = s != NULL;
            cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "%s: allocation %ld: %d %s", whole[i], n, st.code, st.text);
            source_close(s);
            cr_assert_eq(mem_in_use(), before, "%s: allocation %ld", whole[i], n);
        }
        cr_expect_gt(n, 5);
    }
}
