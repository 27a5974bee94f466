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
#include "weights/source.h"

static const char *fixture(const char *name)
{
    static char path[4][512];
    static int turn;
    const char *folder = getenv("PENSTOCK_FIXTURES");
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/import/%s", folder ? folder : "tests/fixtures", name);
    return p;
}

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
    FILE *f = fopen(fixture(file), "r");
    cr_assert(f, "%s", fixture(file));
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
    source *s = source_open(fixture(file), &st);
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
    source *s = source_open(fixture("types.gguf"), &st);
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
    source *s = source_open(fixture("sd1.safetensors"), &st);
    cr_assert(s && s->single && s->components == 3, "%s", st.text);
    check_blob(s, "unet/config.json", "\"cross_attention_dim\": 12");
    cr_expect_null(source_read_blob(s, "tokenizer/vocab.json", 100, false, &bytes, &missing));
    cr_expect(missing.code == STATUS_BAD_FILE && strstr(missing.text, "brings no tokenizer/vocab.json"), "%s", missing.text);
    source_close(s);
    s = source_open(fixture("vae_alone.safetensors"), &st);
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

typedef struct block {
    uint8_t *bytes;
    size_t count;
} block;

static int64_t block_read(void *ctx, uint64_t offset, void *out, size_t bytes)
{
    const block *b = ctx;
    size_t n = offset >= b->count ? 0 : b->count - offset < bytes ? (size_t)(b->count - offset) : bytes;
    memcpy(out, b->bytes + offset, n);
    return (int64_t)n;
}

static block load(const char *path)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f, "%s", path);
    fseek(f, 0, SEEK_END);
    block b = {NULL, (size_t)ftell(f)};
    b.bytes = malloc(b.count + 1);
    rewind(f);
    cr_assert_eq(fread(b.bytes, 1, b.count, f), b.count);
    fclose(f);
    return b;
}

static tensor_table *read_bytes(const uint8_t *bytes, size_t count, status *st)
{
    block b = {malloc(count + 1), count}; /* a block of its own, so that a sanitizer sees every byte too far */
    memcpy(b.bytes, bytes, count);
    io *f = io_custom("file", count, &(io_vtable){block_read, NULL}, &b, st);
    cr_assert(f);
    tensor_table *t = table_read(f, st);
    for (int i = 0; t && i < t->tensors; i++)
        cr_assert(t->tensor[i].offset <= count && t->tensor[i].bytes <= count - t->tensor[i].offset, "%s", t->tensor[i].name);
    io_close(f);
    free(b.bytes);
    return t;
}

static void sound_or_one_sentence(const uint8_t *bytes, size_t count, bool must_fail, const char *what)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(bytes, count, &st);
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
        block b = load(fixture(whole[i]));
        for (int k = 0; k < 64; k++)
            sound_or_one_sentence(b.bytes, b.count * (size_t)k / 64, true, whole[i]);
        sound_or_one_sentence(b.bytes, b.count - 33, true, whole[i]);
        free(b.bytes);
    }
}

/* Any byte of the headers may be anything: read, or refused, but never more than that. */
static void spoil(const char *name, size_t from, size_t to)
{
    static const uint8_t values[] = {0x00, 0xff, 0x80, 0x01, 0x7f};
    block b = load(fixture(name));
    if (to > b.count)
        to = b.count;
    for (size_t at = from; at < to; at++) {
        uint8_t was = b.bytes[at];
        for (size_t v = 0; v < sizeof values; v++) {
            b.bytes[at] = values[v];
            sound_or_one_sentence(b.bytes, b.count, false, name);
        }
        b.bytes[at] = was ^ 1;
        sound_or_one_sentence(b.bytes, b.count, false, name);
        b.bytes[at] = was;
    }
    free(b.bytes);
}

Test(import, any_byte_of_a_gguf_header) { spoil("types.gguf", 0, 2400); }
Test(import, any_byte_of_a_pickle) { spoil("nested.ckpt", 0, 900); }
Test(import, any_byte_of_a_zip_directory) { spoil("nested.ckpt", 1700, SIZE_MAX); }

/* ---- pickles: an archive of stored files around them ---- */

static size_t little(uint8_t *p, uint64_t n, int bytes)
{
    for (int i = 0; i < bytes; i++)
        p[i] = (uint8_t)(n >> 8 * i);
    return (size_t)bytes;
}

typedef struct entry { /* a file of an archive */
    const char *name;
    const void *bytes;
    size_t count;
} entry;

/* Local headers with their data, then the directory; offsets and sizes as they are. */
static size_t build_zip(uint8_t *out, const entry *e, int entries)
{
    size_t at = 0, header[8], directory;
    for (int i = 0; i < entries; i++) {
        header[i] = at;
        size_t name = strlen(e[i].name);
        memset(out + at, 0, 30);
        memcpy(out + at, "PK\3\4", 4);
        little(out + at + 18, e[i].count, 4);
        little(out + at + 22, e[i].count, 4);
        little(out + at + 26, name, 2);
        memcpy(out + at + 30, e[i].name, name);
        memcpy(out + at + 30 + name, e[i].bytes, e[i].count);
        at += 30 + name + e[i].count;
    }
    directory = at;
    for (int i = 0; i < entries; i++) {
        size_t name = strlen(e[i].name);
        memset(out + at, 0, 46);
        memcpy(out + at, "PK\1\2", 4);
        little(out + at + 20, e[i].count, 4);
        little(out + at + 24, e[i].count, 4);
        little(out + at + 28, name, 2);
        little(out + at + 42, header[i], 4);
        memcpy(out + at + 46, e[i].name, name);
        at += 46 + name;
    }
    memset(out + at, 0, 22);
    memcpy(out + at, "PK\5\6", 4);
    little(out + at + 10, (uint64_t)entries, 2);
    little(out + at + 12, at - directory, 4);
    little(out + at + 16, directory, 4);
    return at + 22;
}

static tensor_table *read_pickle(const char *pickle, size_t count, status *st)
{
    static uint8_t out[1 << 16];
    const entry e[] = {{"a/data.pkl", pickle, count}, {"a/data/0", "0123456789abcdef0123456789abcdef", 32}};
    cr_assert_lt(count, sizeof out / 2);
    return read_bytes(out, build_zip(out, e, 2), st);
}

/* {"w": _rebuild_tensor_v2(storage of four floats, offset, shape, strides, False, OrderedDict())} */
#define STORAGE "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(offset, shape, strides) REBUILD "(" STORAGE offset shape strides "\x89" "ccollections\nOrderedDict\n)RtR"
#define DICT(value) "\x80\2}X\1\0\0\0w" value "s."

Test(import, sound_pickles)
{
    static const struct { const char *pickle; size_t count; int dims; uint64_t bytes; } cases[] = {
#define CASE(p, dims, bytes) {p, sizeof p - 1, dims, bytes}
        CASE(DICT(TENSOR("K\0", "K\4\x85", "K\1\x85")), 1, 16),
        CASE(DICT(TENSOR("K\1", "K\1K\3\x86", "K\7K\1\x86")), 2, 12),
        CASE(DICT(TENSOR("K\0", "(K\1K\1K\2K\2t", "(K\1K\1K\2K\1t")), 4, 16),
        CASE(DICT(TENSOR("K\3", ")", ")")), 0, 4),
        CASE(DICT(TENSOR("K\4", "K\0\x85", "K\1\x85")), 1, 0),
        CASE("\x80\2}X\12\0\0\0state_dict}X\1\0\0\0w" TENSOR("K\0", "K\4\x85", "K\1\x85") "ss.", 1, 16),
        CASE("\x80\4\x95\0\0\0\0\0\0\0\0}\x94\x8c\1w\x94" TENSOR("K\0", "K\4\x85", "K\1\x85") "s.", 1, 16),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        tensor_table *t = read_pickle(cases[i].pickle, cases[i].count, &st);
        cr_assert(t, "%zu: %s", i, st.text);
        cr_assert_eq(t->tensors, 1);
        cr_expect(t->tensor->dims == cases[i].dims && t->tensor->bytes == cases[i].bytes && t->tensor->type == TYPE_F32 && strcmp(t->tensor->name, "w") == 0, "%zu", i);
        table_free(t);
    }
}

Test(import, hostile_pickles)
{
    static const struct { const char *pickle; size_t count; const char *word; } cases[] = {
#define BAD(p, word) {p, sizeof p - 1, word}
        BAD("\x80\2cos\nsystem\nX\4\0\0\0ls -\x85R.", "wants os.system"),
        BAD("\x80\2cposix\nsystem\nX\4\0\0\0ls -\x85R.", "wants posix.system"),
        BAD("\x80\4\x8c\2os\x8c\6system\x93\x8c\2ls\x85R.", "wants os.system"),
        BAD("\x80\2" "c__builtin__\neval\nX\1\0\0\0x\x85R.", "wants __builtin__.eval"),
        BAD("\x80\2" "ctorch._utils\n_rebuild_from_type_v2\n)R.", "_rebuild_from_type_v2"),
        BAD("\x80\2" "cos\nsystem", "does not end"),
        BAD("\x80\2ios\nsystem\n.", "opcode 0x69"),
        BAD("\x80\2}X\1\0\0\0wI12\ns.", "opcode 0x49"),
        BAD("\x80\2\x82\1.", "opcode 0x82"),
        BAD("\x80\2}r\xff\xff\xff\x7f.", "memo number beyond"),
        BAD("\x80\2}h\5.", "memo number that was never given"),
        BAD("\x80\2q\0.", "stack is empty"),
        BAD("\x80\2.", "stack is empty"),
        BAD("\x80\2t.", "mark is missing"),
        BAD("\x80\2(.", "stack is empty"),
        BAD("\x80\2}(K\1u.", "key and no value"),
        BAD("\x80\2(K\1K\2u.", "no container"),
        BAD("\x80\2K\1K\2a.", "no container"),
        BAD("\x80\2K\1)R.", "calls what is no name"),
        BAD("\x80\2" "ctorch\nFloatStorage\n)R.", "calls a type of storage"),
        BAD("\x80\2" "ccollections\nOrderedDict\nK\1R.", "arguments are no tuple"),
        BAD("\x80\2" "ccollections\nOrderedDict\nK\1\x85R.", "OrderedDict with arguments"),
        BAD("\x80\2K\1Q.", "other than a tuple"),
        BAD("\x80\2X\xff\xff\xff\xffxx.", "ends early"),
        BAD("\x80\4\x8d\xff\xff\xff\xff\xff\xff\xff\xffxx.", "ends early"),
        BAD("\x80\2\x8b\xff\xff\xff\xff.", "ends early"),
        BAD("\x80\2}", "ends early"),
        BAD("\x80\2}.", "holds no dict of tensors"),
        BAD("\x80\2]q\0h\0a.", "holds no dict of tensors"),
        BAD("\x80\2}q\0X\12\0\0\0state_dicth\0s.", "holds no dict of tensors"), /* a dict within itself */
        BAD(DICT(TENSOR("K\1", "K\4\x85", "K\1\x85")), "its storage has 4"),
        BAD(DICT(TENSOR("J\xff\xff\xff\xff", "K\4\x85", "K\1\x85")), "has no offset"),
        BAD(DICT(TENSOR("\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", "K\4\x85", "K\1\x85")), "its storage has 4"),
        BAD(DICT(TENSOR("K\0", "K\x09\x85", "K\1\x85")), "its storage has 4"),
        BAD(DICT(TENSOR("K\0", "\x8a\5\0\0\0\0\1\x8a\5\0\0\0\0\1\x86", "K\1K\1\x86")), "more numbers than can be counted"),
        BAD(DICT(TENSOR("K\0", "J\xff\xff\xff\xff\x85", "K\1\x85")), "other than a size"),
        BAD(DICT(TENSOR("K\0", "K\4", "K\1\x85")), "shape is no tuple"),
        BAD(DICT(TENSOR("K\0", "K\4\x85", ")")), "other strides"),
        BAD(DICT(TENSOR("K\0", "K\2\x85", "K\2\x85")), "in pieces or another order"),
        BAD(DICT(TENSOR("K\0", "(K\1K\2K\1K\2t", "(K\4K\1K\4K\2t")), "in pieces or another order"),
        BAD(DICT(TENSOR("K\0", "(K\1K\1K\1K\1K\1K\1K\1t", "(K\1K\1K\1K\1K\1K\1K\1t")), "more than 6"),
        BAD(DICT(REBUILD "(K\1tR"), "has no storage"),
        BAD(DICT(REBUILD ")R"), "has no storage"),
        BAD(DICT(REBUILD "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "7X\3\0\0\0cpuK\4tQK\0tR"), "a/data/7 is missing"),
        BAD(DICT(REBUILD "((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\x09tQK\0K\1\x85K\1\x85tR"), "has only 32 bytes"),
        BAD(DICT(REBUILD "((X\7\0\0\0storageK\1X\1\0\0\0" "0X\3\0\0\0cpuK\4tQK\0tR"), "in a way that torch does not write"),
        BAD("\x80\2}(X\1\0\0\0w" TENSOR("K\0", "K\1\x85", "K\1\x85") "X\1\0\0\0w" TENSOR("K\0", "K\1\x85", "K\1\x85") "u.", "tensor w twice"),
        BAD("\x80\2}X\0\0\0\0" TENSOR("K\0", "K\1\x85", "K\1\x85") "s.", "name of 0 bytes"),
        BAD("\x80\2}X\2\0\0\0\xc3(" TENSOR("K\0", "K\1\x85", "K\1\x85") "s.", "no UTF-8"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t before = mem_in_use();
        status st = STATUS_INIT;
        tensor_table *t = read_pickle(cases[i].pickle, cases[i].count, &st);
        cr_expect_null(t, "%s", cases[i].word);
        cr_expect_eq(st.code, STATUS_BAD_FILE);
        cr_expect(strstr(st.text, cases[i].word), "'%s' lacks '%s'", st.text, cases[i].word);
        cr_expect_eq(mem_in_use(), before);
        table_free(t);
    }
}

/* A tower of containers and a swarm of marks: nothing recurses. */
Test(import, deep_pickles)
{
    static char deep[30000];
    status st = STATUS_INIT, marks = STATUS_INIT;
    memset(deep, ']', sizeof deep / 2);
    memset(deep + sizeof deep / 2, 'a', sizeof deep / 2);
    deep[sizeof deep / 2 - 1 + sizeof deep / 2] = '.';
    cr_expect_null(read_pickle(deep, sizeof deep, &st));
    cr_expect(strstr(st.text, "holds no dict"), "%s", st.text);
    memset(deep, '(', sizeof deep);
    cr_expect_null(read_pickle(deep, sizeof deep, &marks));
    cr_expect(strstr(marks.text, "ends early"), "%s", marks.text);
}

/* ---- archives ---- */

static void refused_zip(const uint8_t *bytes, size_t count, const char *word)
{
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(bytes, count, &st);
    cr_expect_null(t, "%s", word);
    cr_expect(st.code == STATUS_BAD_FILE && strstr(st.text, word), "'%s' lacks '%s'", st.text, word);
    table_free(t);
}

Test(import, archives_that_lie)
{
    static const char pickle[] = DICT(TENSOR("K\0", "K\4\x85", "K\1\x85"));
    uint8_t out[2048], b[2048];
    const entry e[] = {{"a/data.pkl", pickle, sizeof pickle - 1}, {"a/data/0", "0123456789abcdef0123456789abcdef", 32}, {"a/byteorder", "little", 6}};
    size_t n = build_zip(out, e, 3), directory = n - 22 - 3 * 46 - 10 - 8 - 11, second = directory + 46 + 10;
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(out, n, &st);
    cr_assert(t, "%s", st.text);
    table_free(t);
#define SPOILED(at, value, bytes, word) (memcpy(b, out, n), little(b + (at), value, bytes), refused_zip(b, n, word))
    SPOILED(n - 10, 1 << 20, 4, "directory lies outside");
    SPOILED(n - 6, 1 << 20, 4, "directory lies outside");
    SPOILED(n - 10, 0, 4, "too small for its entries");
    SPOILED(n - 10, 3 * 46, 4, "ends early");
    SPOILED(n - 6, directory - 1, 4, "ends early");
    SPOILED(n - 2, 1, 2, "its directory is missing");
    SPOILED(second + 42, 0, 4, "overlap");
    SPOILED(second + 42, 1, 4, "not where the directory says");
    SPOILED(second + 42, 0x7fffffff, 4, "outside of the file");
    SPOILED(second + 10, 8, 2, "compressed or encrypted");
    SPOILED(second + 8, 1, 2, "compressed or encrypted");
    SPOILED(second + 24, 33, 4, "compressed or encrypted");
    SPOILED(second + 28, 60000, 2, "ends early");
    SPOILED(second + 46, 0, 1, "zero byte");
    memcpy(b, out, n); /* both sizes: behind the directory */
    little(b + second + 20, 1 << 20, 4);
    little(b + second + 24, 1 << 20, 4);
    refused_zip(b, n, "behind the files' part");
    const entry big[] = {e[0], e[1], {"a/byteorder", "big", 3}}, two[] = {e[0], {"b/data.pkl", "x", 1}}, none[] = {{"a/x", "x", 1}},
                twice[] = {e[0], e[1], e[1]}, nothing[] = {{"data.pkl", "x", 1}};
    refused_zip(b, build_zip(b, big, 3), "byte order is \"big\"");
    refused_zip(b, build_zip(b, two, 2), "holds both");
    refused_zip(b, build_zip(b, none, 1), "without data.pkl");
    refused_zip(b, build_zip(b, nothing, 1), "without data.pkl");
    refused_zip(b, build_zip(b, twice, 3), "holds a/data/0 twice");
}

/* Numbers beyond 32 bits stand in zip64's fields, as torch writes them for every large archive. */
Test(import, zip64)
{
    static const char pickle[] = DICT(TENSOR("K\0", "K\4\x85", "K\1\x85"));
    uint8_t out[2048];
    const entry e[] = {{"a/data.pkl", pickle, sizeof pickle - 1}, {"a/data/0", "0123456789abcdef0123456789abcdef", 32}};
    size_t n = build_zip(out, e, 2), directory = n - 22 - 2 * 46 - 10 - 8, second = directory + 46 + 10;
    uint64_t header = (uint64_t)out[second + 42] | (uint64_t)out[second + 43] << 8;
    little(out + second + 20, 0xffffffff, 4); /* the second entry: sizes and offset in an extra field */
    little(out + second + 24, 0xffffffff, 4);
    little(out + second + 42, 0xffffffff, 4);
    little(out + second + 30, 28, 2);
    size_t at = second + 46 + 8;
    at += little(out + at, 1, 2);
    at += little(out + at, 24, 2);
    at += little(out + at, 32, 8);
    at += little(out + at, 32, 8);
    at += little(out + at, header, 8);
    size_t end64 = at;
    memset(out + at, 0, 56);
    memcpy(out + at, "PK\6\6", 4);
    little(out + at + 32, 2, 8);
    little(out + at + 40, end64 - directory, 8);
    little(out + at + 48, directory, 8);
    at += 56;
    memset(out + at, 0, 20);
    memcpy(out + at, "PK\6\7", 4);
    little(out + at + 8, end64, 8);
    at += 20;
    memset(out + at, 0, 22);
    memcpy(out + at, "PK\5\6", 4);
    little(out + at + 10, 0xffff, 2);
    little(out + at + 12, 0xffffffff, 4);
    little(out + at + 16, 0xffffffff, 4);
    at += 22;
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(out, at, &st);
    cr_assert(t, "%s", st.text);
    cr_expect_eq(t->tensor->bytes, 16);
    table_free(t);
    little(out + end64 + 48, UINT64_MAX, 8);
    refused_zip(out, at, "directory lies outside");
    little(out + end64 + 48, directory, 8);
    little(out + end64 + 32, UINT64_MAX / 2, 8);
    refused_zip(out, at, "too small for its entries");
    little(out + end64 + 32, 2, 8);
    little(out + second + 46 + 8 + 4, UINT64_MAX, 8); /* sizes that wrap around */
    little(out + second + 46 + 8 + 12, UINT64_MAX, 8);
    refused_zip(out, at, "behind the files' part");
}

/* ---- GGUF headers ---- */

static size_t gguf_text(uint8_t *p, const char *text)
{
    little(p, strlen(text), 8);
    memcpy(p + 8, text, strlen(text));
    return 8 + strlen(text);
}

static size_t gguf_start(uint8_t *p, uint64_t version, uint64_t tensors, uint64_t keys)
{
    memcpy(p, "GGUF", 4);
    little(p + 4, version, 4);
    little(p + 8, tensors, 8);
    little(p + 16, keys, 8);
    return 24;
}

static size_t gguf_tensor(uint8_t *p, const char *name, uint64_t dims, const uint64_t *shape, uint64_t type, uint64_t offset)
{
    size_t n = gguf_text(p, name);
    n += little(p + n, dims, 4);
    for (uint64_t i = 0; i < dims && i < 8; i++)
        n += little(p + n, shape[i], 8);
    n += little(p + n, type, 4);
    return n + little(p + n, offset, 8);
}

static void refused_tensor(uint64_t dims, const uint64_t *shape, uint64_t type, uint64_t offset, const char *word)
{
    uint8_t out[1024] = {0};
    size_t n = gguf_start(out, 3, 1, 0);
    n += gguf_tensor(out + n, "w", dims, shape, type, offset);
    n = (n + 31) / 32 * 32 + 256;
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(out, n, &st);
    cr_expect_eq(t == NULL, *word != 0, "%s: %s", word, st.text);
    cr_expect(!*word || (st.code == STATUS_BAD_FILE && strstr(st.text, word)), "'%s' lacks '%s'", st.text, word);
    table_free(t);
}

Test(import, gguf_tensors_that_lie)
{
    const uint64_t huge = UINT64_MAX, half = (uint64_t)1 << 33;
    refused_tensor(1, (uint64_t[]){64}, 0, 0, "");
    refused_tensor(0, (uint64_t[]){0}, 0, 0, "");
    refused_tensor(2, (uint64_t[]){32, 2}, 8, 0, "");
    refused_tensor(1, (uint64_t[]){65}, 0, 0, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, 256, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, huge - 31, "truncated?");
    refused_tensor(1, (uint64_t[]){8}, 0, 4, "no multiple of 32");
    refused_tensor(5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0, "more than 4 dimensions");
    refused_tensor(2, (uint64_t[]){half, half}, 0, 0, "more bytes than can be counted");
    refused_tensor(1, (uint64_t[]){huge}, 0, 0, "more bytes than can be counted");
    refused_tensor(2, (uint64_t[]){(uint64_t)1 << 62, 32}, 2, 0, "more bytes than can be counted");
    refused_tensor(2, (uint64_t[]){33, 2}, 8, 0, "no whole blocks of Q8_0");
    refused_tensor(2, (uint64_t[]){32, 2}, 12, 0, "no whole blocks of Q4_K");
    refused_tensor(1, (uint64_t[]){8}, 4, 0, "type 4");
    refused_tensor(1, (uint64_t[]){8}, 16, 0, "type 16");
    refused_tensor(1, (uint64_t[]){8}, 0xffffffff, 0, "type 4294967295");
}

static void refused_gguf(const uint8_t *bytes, size_t count, const char *word)
{
    status st = STATUS_INIT;
    tensor_table *t = read_bytes(bytes, count, &st);
    cr_expect_null(t, "%s", word);
    cr_expect(st.code == STATUS_BAD_FILE && strstr(st.text, word), "'%s' lacks '%s'", st.text, word);
    table_free(t);
}

Test(import, gguf_headers_that_lie)
{
    uint8_t b[1024] = {0};
    size_t n;
    refused_gguf(b, gguf_start(b, 1, 0, 0), "version 1");
    refused_gguf(b, gguf_start(b, 4, 0, 0), "version 4");
    refused_gguf(b, gguf_start(b, 0x03000000, 0, 0), "big-endian");
    refused_gguf(b, gguf_start(b, 3, UINT64_MAX, 0), "more entries than the file");
    refused_gguf(b, gguf_start(b, 3, 0, UINT64_MAX), "more entries than the file");
    n = gguf_start(b, 3, 0, 1);
    n += gguf_text(b + n, "general.alignment");
    n += little(b + n, 4, 4);
    n += little(b + n, 12, 4);
    refused_gguf(b, n, "no power of two");
    little(b + n - 4, 0, 4);
    refused_gguf(b, n, "no power of two");
    little(b + n - 8, 77, 4);
    refused_gguf(b, n, "general.alignment is no u32");
    n = gguf_start(b, 3, 0, 1);
    n += gguf_text(b + n, "k");
    n += little(b + n, 9, 4);
    size_t kind = n;
    n += little(b + n, 6, 4);
    n += little(b + n, UINT64_MAX / 2, 8);
    refused_gguf(b, n, "array is too long");
    little(b + kind + 4, 1000, 8);
    refused_gguf(b, n, "file ends before");
    little(b + kind, 8, 4);
    little(b + kind + 4, UINT64_MAX, 8);
    refused_gguf(b, n, "file ends before");
    little(b + kind, 9, 4);
    refused_gguf(b, n, "unknown kind");
    n = gguf_start(b, 3, 2, 0); /* two tensors on the same bytes, and two of the same name */
    n += gguf_tensor(b + n, "a", 1, (uint64_t[]){16}, 0, 0);
    size_t second = n;
    n += gguf_tensor(b + n, "b", 1, (uint64_t[]){8}, 0, 32);
    refused_gguf(b, (n + 31) / 32 * 32 + 64, "tensors a and b overlap");
    gguf_tensor(b + second, "a", 1, (uint64_t[]){8}, 0, 64);
    refused_gguf(b, (n + 31) / 32 * 32 + 96, "holds tensor a twice");
    n = gguf_start(b, 3, 1, 1); /* an original shape of another size */
    n += gguf_text(b + n, "comfy.gguf.orig_shape.w");
    n += little(b + n, 9, 4);
    n += little(b + n, 5, 4);
    n += little(b + n, 2, 8);
    n += little(b + n, 3, 4);
    n += little(b + n, 3, 4);
    n += gguf_tensor(b + n, "w", 1, (uint64_t[]){8}, 0, 0);
    refused_gguf(b, (n + 31) / 32 * 32 + 32, "another number of elements");
}

Test(import, memory_runs_out)
{
    size_t before = mem_in_use();
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        long n = 0;
        for (bool done = false; !done;) {
            status st = STATUS_INIT;
            mem_fail_at(++n);
            source *s = source_open(fixture(whole[i]), &st);
            mem_fail_at(0);
            done = s != NULL;
            cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "%s: allocation %ld: %d %s", whole[i], n, st.code, st.text);
            source_close(s);
            cr_assert_eq(mem_in_use(), before, "%s: allocation %ld", whole[i], n);
        }
        cr_expect_gt(n, 5);
    }
}
