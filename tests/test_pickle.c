/* test_pickle.c: torch's checkpoints that somebody wrote to do harm: pickles, and the archives around them. */
#include <criterion/criterion.h>
#include <string.h>

#include "base/mem.h"
#include "tests/import_bytes.h"

/* ---- an archive of stored files around a pickle ---- */

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
    return table_of_bytes(out, build_zip(out, e, 2), st);
}

/* {"w": _rebuild_tensor_v2(storage of four floats, offset, shape, strides, False, OrderedDict())} */
#define STORAGE "(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" "0X\3\0\0\0cpuK\4tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define TENSOR(offset, shape, strides) REBUILD "(" STORAGE offset shape strides "\x89" "ccollections\nOrderedDict\n)RtR"
#define DICT(value) "\x80\2}X\1\0\0\0w" value "s."

Test(pickle, sound_pickles)
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

Test(pickle, hostile_pickles)
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
Test(pickle, deep_pickles)
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

Test(pickle, archives_that_lie)
{
    static const char pickle[] = DICT(TENSOR("K\0", "K\4\x85", "K\1\x85"));
    uint8_t out[2048], b[2048];
    const entry e[] = {{"a/data.pkl", pickle, sizeof pickle - 1}, {"a/data/0", "0123456789abcdef0123456789abcdef", 32}, {"a/byteorder", "little", 6}};
    size_t n = build_zip(out, e, 3), directory = n - 22 - 3 * 46 - 10 - 8 - 11, second = directory + 46 + 10;
    status st = STATUS_INIT;
    tensor_table *t = table_of_bytes(out, n, &st);
    cr_assert(t, "%s", st.text);
    table_free(t);
#define SPOILED(at, value, bytes, word) (memcpy(b, out, n), little(b + (at), value, bytes), table_refused(b, n, word))
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
    table_refused(b, n, "behind the files' part");
    const entry big[] = {e[0], e[1], {"a/byteorder", "big", 3}}, two[] = {e[0], {"b/data.pkl", "x", 1}}, none[] = {{"a/x", "x", 1}},
                twice[] = {e[0], e[1], e[1]}, nothing[] = {{"data.pkl", "x", 1}};
    table_refused(b, build_zip(b, big, 3), "byte order is \"big\"");
    table_refused(b, build_zip(b, two, 2), "holds both");
    table_refused(b, build_zip(b, none, 1), "without data.pkl");
    table_refused(b, build_zip(b, nothing, 1), "without data.pkl");
    table_refused(b, build_zip(b, twice, 3), "holds a/data/0 twice");
}

/* Numbers beyond 32 bits stand in zip64's fields, as torch writes them for every large archive. */
Test(pickle, zip64)
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
    tensor_table *t = table_of_bytes(out, at, &st);
    cr_assert(t, "%s", st.text);
    cr_expect_eq(t->tensor->bytes, 16);
    table_free(t);
    little(out + end64 + 48, UINT64_MAX, 8);
    table_refused(out, at, "directory lies outside");
    little(out + end64 + 48, directory, 8);
    little(out + end64 + 32, UINT64_MAX / 2, 8);
    table_refused(out, at, "too small for its entries");
    little(out + end64 + 32, 2, 8);
    little(out + second + 46 + 8 + 4, UINT64_MAX, 8); /* sizes that wrap around */
    little(out + second + 46 + 8 + 12, UINT64_MAX, 8);
    table_refused(out, at, "behind the files' part");
}
