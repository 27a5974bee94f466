/* test_folder.c: model folders as diffusers and transformers write them, and as downloads and accidents leave them. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "tests/support.h"
#include "weights/source.h"

static char folder[] = "/tmp/penstock-folder-XXXXXX";

static int remove_one(const char *name, const struct stat *s, int kind, struct FTW *where)
{
    (void)s, (void)kind, (void)where;
    return remove(name);
}

static void setup(void) { cr_assert(mkdtemp(folder)); }
static void teardown(void) { cr_expect_eq(nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0); }

TestSuite(folder, .init = setup, .fini = teardown);

/* A name inside the test's folder; subfolders are made. */
static const char *at(const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    for (char *slash = p + strlen(folder) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        cr_assert(mkdir(p, 0700) == 0 || errno == EEXIST);
    }
    return p;
}

static void put(const char *name, const void *bytes, size_t count)
{
    FILE *f = fopen(at(name), "wb");
    cr_assert(f && fwrite(bytes, 1, count, f) == count);
    fclose(f);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

/* A safetensors file: the header, and `data` bytes behind it. */
static void put_tensors(const char *name, const char *header, size_t data)
{
    size_t length = strlen(header);
    uint8_t *bytes = calloc(1, 8 + length + data);
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(length >> 8 * i);
    memcpy(bytes + 8, header, length);
    put(name, bytes, 8 + length + data);
    free(bytes);
}

#define TENSOR(type, shape, offsets) "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(type, shape, offsets) "{\"w\":" TENSOR(type, shape, offsets) "}"
#define W24 ONE("F32", "[2,3]", "[0,24]")

static source *open_folder(status *st) { return source_open(folder, st); }

static void refused(const char *word)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    source *s = open_folder(&st);
    cr_expect_null(s, "wanted: %s", word);
    source_close(s);
    check_sentence(&st, word);
    cr_expect_eq(mem_in_use(), before);
}

static void put_model(void)
{
    put_text("model_index.json", "{\"_class_name\":\"P\",\"n\":1,\"list\":[1,2],\"absent\":[\"diffusers\",\"X\"],\"nothing\":[null,null],\"scheduler\":[\"diffusers\",\"S\"],"
                                 "\"text_encoder\":[\"transformers\",\"T5EncoderModel\"],\"tokenizer\":[\"transformers\",\"T5Tokenizer\"],\"vae\":[\"diffusers\",\"V\"]}");
    put_text("scheduler/scheduler_config.json", "{}");
    put_text("tokenizer/spiece.model", "pieces");
    put_text("text_encoder/config.json", "{\"a\":1}");
    put_text("text_encoder/model.safetensors.index.json", "{\"metadata\":{},\"weight_map\":{\"b\":\"model-00002-of-00002.safetensors\",\"a\":\"model-00001-of-00002.safetensors\","
                                                          "\"c\":\"model-00002-of-00002.safetensors\"}}");
    put_tensors("text_encoder/model-00001-of-00002.safetensors", "{\"a\":" TENSOR("F16", "[4,5]", "[0,40]") "}", 40);
    put_tensors("text_encoder/model-00002-of-00002.safetensors", "{\"c\":" TENSOR("F32", "[7]", "[0,28]") ",\"b\":" TENSOR("I8", "[]", "[28,29]") "}", 29);
    put_text("vae/config.json", "{}");
    put_tensors("vae/diffusion_pytorch_model.safetensors", "{\"conv\":" TENSOR("BF16", "[8,4,3,3]", "[0,576]") ",\"conv1\":" TENSOR("F16", "[8,4,1,1]", "[576,640]")
                ",\"five\":" TENSOR("U8", "[2,3,4,5,6]", "[640,1360]") ",\"none\":" TENSOR("F32", "[0,9]", "[640,640]") "}", 1360);
}

static void check_weight(const source *s, const char *component, const char *name, weight_type type, int64_t rows, int taps, int depth, bool oihw, uint64_t bytes)
{
    const weight *w = source_find(s, component, name);
    cr_assert(w, "%s/%s", component, name);
    cr_expect(w->type == type && w->matrix.rows == rows && w->matrix.taps == taps && w->matrix.depth == depth && w->oihw == oihw, "%s: %" PRId64 " %d %d", name,
              w->matrix.rows, w->matrix.taps, w->matrix.depth);
    cr_assert_eq(w->parts, 1);
    cr_expect(w->part->bytes == bytes && w->part->first_row == 0 && w->part->rows == rows && w->part->extent == -1, "%s", name);
    cr_expect_leq(w->part->offset + bytes, io_size(s->file[w->file]));
}

Test(folder, a_model)
{
    size_t before = mem_in_use();
    status st = STATUS_INIT;
    put_model();
    source *s = open_folder(&st);
    cr_assert(s, "%s", st.text);
    cr_expect(!s->container && s->components == 2 && s->weights == 7 && s->files == 3 && s->extents == 0 && s->hash);
    cr_expect_str_eq(s->path, folder);
    cr_expect_str_eq(s->component[0], "text_encoder");
    cr_expect_str_eq(s->component[1], "vae");
    check_weight(s, "text_encoder", "a", TYPE_F16, 4, 1, 5, false, 40);
    check_weight(s, "text_encoder", "b", TYPE_I8, 1, 1, 1, false, 1);
    check_weight(s, "text_encoder", "c", TYPE_F32, 1, 1, 7, false, 28);
    check_weight(s, "vae", "conv", TYPE_BF16, 8, 9, 4, true, 576);
    check_weight(s, "vae", "conv1", TYPE_F16, 8, 1, 4, false, 64);
    check_weight(s, "vae", "five", TYPE_U8, 2, 1, 360, false, 720);
    check_weight(s, "vae", "none", TYPE_F32, 0, 1, 9, false, 0);
    cr_expect_null(source_find(s, "vae", "a"));
    cr_expect_null(source_find(s, "", "a"));
    cr_expect_null(source_find(s, "zzz", "zzz"));
    cr_expect(source_has_component(s, "vae") && !source_has_component(s, "scheduler") && !source_has_component(s, "absent"));
    cr_expect(!source_lacks_weights(s, "vae") && !source_lacks_weights(s, "absent"));
    uint64_t hash = s->hash;
    source_close(s);
    s = open_folder(&st);
    cr_expect_eq(s->hash, hash, "the same twice");
    source_close(s);
    put_tensors("text_encoder/model-00001-of-00002.safetensors", "{\"a\":" TENSOR("F16", "[5,4]", "[0,40]") "}", 40);
    s = open_folder(&st);
    cr_expect_neq(s->hash, hash, "other shapes");
    source_close(s);
    cr_expect_eq(mem_in_use(), before);
}

Test(folder, small_files)
{
    status st = STATUS_INIT, missing = STATUS_INIT, large = STATUS_INIT;
    size_t n = 99;
    put_model();
    source *s = open_folder(&st);
    cr_assert(s);
    static const char *const names[] = {"model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/spiece.model", "vae/config.json"};
    cr_assert_eq(s->blobs, 5);
    for (int i = 0; i < 5; i++)
        cr_expect_str_eq(s->blob[i].name, names[i]);
    char *text = source_read_blob(s, "tokenizer/spiece.model", 6, false, &n, &st);
    cr_assert(text && n == 6, "%s", st.text);
    cr_expect_str_eq(text, "pieces");
    mem_free(text);
    cr_expect(!source_read_blob(s, "tokenizer/tokenizer.json", 100, true, &n, &st) && n == 0 && status_ok(&st));
    cr_expect_null(source_read_blob(s, "tokenizer/tokenizer.json", 100, false, &n, &missing));
    check_sentence(&missing, "tokenizer/tokenizer.json: missing");
    cr_expect_null(source_read_blob(s, "tokenizer/spiece.model", 5, true, &n, &large));
    check_sentence(&large, "has 6 bytes, at most 5");
    unlink(at("vae/config.json"));
    cr_expect_null(source_read_blob(s, "vae/config.json", 100, false, &n, &(status)STATUS_INIT));
    source_close(s);
}

Test(folder, a_component_alone)
{
    status st = STATUS_INIT;
    put_text("config.json", "{}");
    put_text("spiece.model", "x");
    put_tensors("model.safetensors", W24, 24);
    source *s = open_folder(&st);
    cr_assert(s && s->components == 1 && s->blobs == 2, "%s", st.text);
    cr_expect_str_eq(s->component[0], "");
    check_weight(s, "", "w", TYPE_F32, 2, 1, 3, false, 24);
    source_close(s);
}

Test(folder, configs_without_weights)
{
    status st = STATUS_INIT;
    put_text("model_index.json", "{\"unet\":[\"diffusers\",\"U\"],\"vae\":[\"diffusers\",\"V\"],\"scheduler\":[\"diffusers\",\"S\"]}");
    put_text("unet/config.json", "{}");
    put_text("vae/config.json", "{}");
    put_text("scheduler/scheduler_config.json", "{}");
    source *s = open_folder(&st);
    cr_assert(s && s->components == 2 && s->weights == 0 && s->files == 0, "%s", st.text);
    cr_expect(source_lacks_weights(s, "unet") && source_lacks_weights(s, "vae") && !source_lacks_weights(s, "scheduler"));
    cr_expect_null(source_find(s, "unet", "x"));
    source_close(s);
    put_tensors("vae/model.safetensors", W24, 24);
    s = open_folder(&st);
    cr_assert(s);
    cr_expect(source_lacks_weights(s, "unet") && !source_lacks_weights(s, "vae"));
    source_close(s);
    unlink(at("model_index.json"));
    put_text("config.json", "{}");
    s = open_folder(&st);
    cr_assert(s && s->components == 1 && source_lacks_weights(s, ""));
    source_close(s);
}

static void expect_width(int depth)
{
    status st = STATUS_INIT;
    source *s = open_folder(&st);
    cr_assert(s, "%s", st.text);
    cr_expect_eq(source_find(s, "", "w")->matrix.depth, depth, "%d", source_find(s, "", "w")->matrix.depth);
    source_close(s);
}

/* Each file that is put there is preferred to those before it; the width tells which one was read. */
Test(folder, which_file_is_taken)
{
    static const char *const order[] = {"model.non_ema.safetensors", "diffusion_pytorch_model.non_ema.safetensors", "model.bf16.safetensors",
                                        "diffusion_pytorch_model.bf16.safetensors", "model.fp16.safetensors", "diffusion_pytorch_model.fp16.safetensors",
                                        "model.safetensors", "diffusion_pytorch_model.safetensors"};
    put_text("config.json", "{}");
    for (int i = 0; i < (int)(sizeof order / sizeof *order); i++) {
        char header[100];
        snprintf(header, sizeof header, ONE("U8", "[1,%d]", "[0,%d]"), i + 1, i + 1);
        put_tensors(order[i], header, (size_t)i + 1);
        expect_width(i + 1);
    }
    /* shards before one file for diffusers, the other way round for transformers */
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"w\":\"s\"}}");
    put_text("diffusion_pytorch_model.safetensors.index.json", "{\"weight_map\":{\"w\":\"s\"}}");
    put_tensors("s", ONE("U8", "[1,50]", "[0,50]"), 50);
    expect_width(50);
    unlink(at("diffusion_pytorch_model.safetensors.index.json"));
    expect_width(8);
    unlink(at("diffusion_pytorch_model.safetensors"));
    expect_width(7);
    unlink(at("model.safetensors"));
    expect_width(50);
}

Test(folder, indexes_of_variants)
{
    static const char *const names[] = {"diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.safetensors.fp16.index.json",
                                        "model.safetensors.index.fp16.json"};
    put_text("config.json", "{}");
    put_tensors("model.fp16-00001-of-00001.safetensors", ONE("U8", "[1,3]", "[0,3]"), 3);
    for (int i = 0; i < 3; i++) {
        put_text(names[i], "{\"weight_map\":{\"w\":\"model.fp16-00001-of-00001.safetensors\"}}");
        expect_width(3);
        unlink(at(names[i]));
    }
}

Test(folder, links)
{
    put_text("config.json", "{}");
    put_tensors("blobs/0123", ONE("U8", "[1,3]", "[0,3]"), 3);
    cr_assert_eq(symlink("blobs/0123", at("model.safetensors")), 0);
    expect_width(3);
    unlink(at("blobs/0123"));
    status st = STATUS_INIT; /* a link to nothing is no file */
    source *s = open_folder(&st);
    cr_assert(!s);
    check_sentence(&st, "model.safetensors");
}

Test(folder, shards_that_do_not_fit_their_index)
{
    static const struct { const char *map, *word; } cases[] = {
        {"{\"weight_map\":{\"a\":\"s1\",\"x\":\"s1\"}}", "tensor x: s1 does not hold it"},
        {"{\"weight_map\":{\"a\":\"s2\"}}", "tensor a: s2 does not hold it"},
        {"{\"weight_map\":{\"a\":\"s3\"}}", "s3: no such file"},
        {"{\"weight_map\":{\"a\":\"../s1\"}}", "../s1 is no name of a shard"},
        {"{\"weight_map\":{\"a\":\"x/s1\"}}", "x/s1 is no name of a shard"},
        {"{\"weight_map\":{\"a\":\"..\"}}", ".. is no name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "is no name of a shard"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", "is no name of a shard"},
        {"{\"weight_map\":{\"a\":1}}", "other than a string"},
        {"{\"weight_map\":{\"a\":null}}", "other than a string"},
        {"{\"weight_map\":[]}", "has no weight_map"},
        {"{\"weight_map\":null}", "has no weight_map"},
        {"{}", "has no weight_map"},
        {"[]", "is not a JSON object"},
        {"{", "not JSON"},
        {"", "not JSON"},
    };
    put_text("config.json", "{}");
    put_tensors("s1", "{\"a\":" TENSOR("U8", "[1]", "[0,1]") "}", 1);
    put_tensors("s2", "{\"b\":" TENSOR("U8", "[1]", "[0,1]") "}", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text("model.safetensors.index.json", cases[i].map);
        refused(cases[i].word);
    }
    /* what the index does not name, or names elsewhere, is left alone */
    status st = STATUS_INIT;
    put_text("model.safetensors.index.json", "{\"weight_map\":{\"a\":\"s1\",\"b\":\"s2\"}}");
    put_tensors("s2", "{\"a\":" TENSOR("U8", "[5]", "[0,5]") ",\"b\":" TENSOR("U8", "[1]", "[5,6]") ",\"c\":" TENSOR("U8", "[1]", "[6,7]") "}", 7);
    source *s = open_folder(&st);
    cr_assert(s && s->weights == 2, "%s", st.text);
    cr_expect_eq(source_find(s, "", "a")->matrix.depth, 1);
    source_close(s);
    put_text("model.safetensors.index.json", "{\"weight_map\":{}}");
    s = open_folder(&st);
    cr_assert(s && s->weights == 0 && source_lacks_weights(s, ""));
    source_close(s);
}

Test(folder, what_is_no_model)
{
    refused("has neither a model_index.json nor a config.json");
    put_text("config.json", "{}");
    put_text("a.ckpt", "x");
    refused("a.ckpt: is under none of the names");
    put_text("a.ckpt.h5", "x");
    unlink(at("a.ckpt"));
    refused("a.ckpt.h5: weights of this kind are not read");
    unlink(at("a.ckpt.h5"));
    put_text("pytorch_model.bin", "x");
    refused("pytorch_model.bin: not a safetensors file");
    unlink(at("pytorch_model.bin"));
    put_tensors("other.safetensors", W24, 24);
    refused("other.safetensors: is under none of the names");
    put_text("model.safetensors", "x");
    refused("model.safetensors: not a safetensors file: has only 1 bytes");
    put_tensors("model.safetensors", ONE("U8", "[2,3000000000]", "[0,0]"), 0);
    refused("tensor w: its shape makes");
    put_text("model_index.json", "[]");
    refused("is not a JSON object");
    put_text("model_index.json", "{\"a");
    refused("model_index.json: not JSON");
    put_text("model_index.json", "{\"../x\":[\"a\",\"b\"]}");
    refused("../x is no name of a component");
    put_text("model_index.json", "{\"x/y\":[\"a\",\"b\"]}");
    refused("x/y is no name of a component");
}

Test(folder, weights_nobody_reads_may_be_of_any_kind)
{
    status st = STATUS_INIT;
    put_text("model_index.json", "{\"safety_checker\":[\"diffusers\",\"X\"],\"vae\":[\"diffusers\",\"V\"]}");
    put_text("safety_checker/config.json", "{}");
    put_text("safety_checker/pytorch_model.bin", "x");
    put_tensors("vae/diffusion_pytorch_model.safetensors", W24, 24);
    source *s = open_folder(&st);
    cr_assert(s, "%s", st.text);
    source_close(s);
    put_text("vae/diffusion_pytorch_model.bin", "x"); /* beside a safetensors file it does not count */
    s = open_folder(&st);
    cr_assert(s, "%s", st.text);
    source_close(s);
    unlink(at("vae/diffusion_pytorch_model.safetensors"));
    refused("vae/diffusion_pytorch_model.bin: not a safetensors file");
}

Test(folder, single_files)
{
    static const struct { const char *bytes; size_t count; const char *word; } cases[] = {
        {"GGUF\3\0\0\0", 8, "GGUF header"}, {"PK\3\4xxxx", 8, "zip archive"}, {"\x80\2}q", 4, "bare pickle"}, {"hello, world", 12, "neither a .penstock"}, {"", 0, "neither a .penstock"},
        {"\x05\0\0\0\0\0\0\0{    ", 13, "header is malformed"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        status st = STATUS_INIT;
        put("file", cases[i].bytes, cases[i].count);
        cr_expect_null(source_open(at("file"), &st));
        check_sentence(&st, cases[i].word);
    }
    status missing = STATUS_INIT;
    cr_expect_null(source_open(at("nowhere"), &missing));
    check_sentence(&missing, "nowhere");
}

Test(folder, memory_runs_out)
{
    size_t before = mem_in_use();
    long n = 0;
    put_model();
    for (bool done = false; !done;) {
        status st = STATUS_INIT;
        size_t bytes;
        mem_fail_at(++n);
        source *s = open_folder(&st);
        char *text = s ? source_read_blob(s, "tokenizer/spiece.model", 100, true, &bytes, &st) : NULL;
        mem_fail_at(0);
        done = text != NULL;
        cr_assert_eq(status_ok(&st), done, "allocation %ld", n);
        cr_assert(done || (st.code == STATUS_FAILED && strstr(st.text, "out of memory")), "allocation %ld: %d %s", n, st.code, st.text);
        mem_free(text);
        source_close(s);
        cr_assert_eq(mem_in_use(), before, "allocation %ld", n);
    }
    cr_expect_geq(n, 50);
}
