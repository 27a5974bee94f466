/* check_codes.c: the codes of q4 and q5, decoded and found. */
#include "tests/check.h"

typedef struct codes_case {
    int depth;
    uint8_t *sel, *codes, *signs;
    int8_t *table, *out, *want;
} codes_case;

static codes_case make_codes(void)
{
    static const int depths[] = {32, 64, 96, 128, 320, 1152};
    codes_case c = {.depth = PICK(depths)};
    begin_case("depth %d", c.depth);
    size_t blocks = (size_t)c.depth / 32;
    c.sel = ARRAY(uint8_t, blocks * 16), c.codes = ARRAY(uint8_t, blocks * 256), c.signs = ARRAY(uint8_t, blocks * 64);
    c.table = ARRAY(int8_t, 256), c.out = ARRAY(int8_t, blocks * 512), c.want = ARRAY(int8_t, blocks * 512);
    for (size_t j = 0; j < blocks * 256; j++) {
        c.codes[j] = (uint8_t)random_bits();
        c.sel[j / 16] = (uint8_t)random_bits();
        c.signs[j / 4] = (uint8_t)random_bits();
    }
    return c;
}

void test_decode_q4(void)
{
    for (int i = 0; i < 24; i++) {
        codes_case c = make_codes();
        for (int j = 0; j < 256; j++)
            c.table[j] = (int8_t)random_bits();
        seal(c.sel), seal(c.codes), seal(c.table);
        run.set->decode_q4(c.sel, c.codes, c.depth, c.table, c.out);
        run.scalar->decode_q4(c.sel, c.codes, c.depth, c.table, c.want);
        same_bytes("out", c.out, c.want, (size_t)c.depth * 16);
        end_case();
    }
}

void test_decode_q5(void)
{
    for (int i = 0; i < 24; i++) {
        codes_case c = make_codes();
        for (int j = 0; j < 256; j++)
            c.table[j] = (int8_t)random_int(0, 127);
        seal(c.sel), seal(c.codes), seal(c.signs), seal(c.table);
        run.set->decode_q5(c.sel, c.codes, c.signs, c.depth, c.table, c.out);
        run.scalar->decode_q5(c.sel, c.codes, c.signs, c.depth, c.table, c.want);
        same_bytes("out", c.out, c.want, (size_t)c.depth * 16);
        end_case();
    }
}

static int ascending(const void *x, const void *y) { return *(const uint8_t *)x - *(const uint8_t *)y; }

/* coded: with codes, not the error alone */
static void one_search(int count, int groups, int step, bool coded)
{
    values kind = (values)random_int(0, VALUES - 1);
    begin_case("%d levels, %d groups by %d, %s%s", count, groups, step, value_names[kind], coded ? ", coded" : "");
    size_t n = (size_t)groups;
    float *x = ARRAY(float, n * 16), most = 0;
    uint8_t *levels = ARRAY(uint8_t, 16 * count), *first = ARRAY(uint8_t, 128), *out[2][2];
    int64_t sums[2][4] = {{0}, {0}};
    fill(x, n * 16, kind);
    for (size_t i = 0; i < n * 16; i++)
        most = fmaxf(most, fabsf(x[i]));
    int top = random_int(1, 127); /* the whole range of bytes is allowed, though the formats stop at 63 */
    for (int i = 0; i < 16 * count; i++)
        levels[i] = (uint8_t)random_int(0, top);
    for (int t = 0; t < 16; t++)
        qsort(levels + t * count, (size_t)count, 1, ascending);
    for (int i = 0; i < 128; i++)
        first[i] = (uint8_t)random_int(0, 9);
    for (int i = 0; i < 2; i++)
        out[i][0] = ARRAY(uint8_t, n), out[i][1] = ARRAY(uint8_t, n * 16);
    float inverse = most > 1e-30f ? 256 * (float)random_int(20, 200) / most : 1e30f; /* some are cut */
    seal(x), seal(levels), seal(first);
    for (int i = 0; i < 2; i++)
        (i ? run.scalar : run.set)
            ->search_codes(x, groups, step, inverse, levels, count, first, coded ? out[i][0] : NULL, coded ? out[i][1] : NULL, sums[i]);
    same_bytes("table", out[0][0], out[1][0], n); /* what is not written is 0xff in both */
    same_bytes("code", out[0][1], out[1][1], n * 16);
    same_bytes("sums", sums[0], sums[1], sizeof sums[0]);
    end_case();
}

void test_search_codes(void)
{
    for (int i = 0; i < 40; i++) {
        bool coded = i & 1;
        one_search(i & 2 ? 8 : 16, random_int(1, 20), coded ? 1 : random_int(1, 5), coded);
    }
    one_search(8, 640, 1, true); /* sums beyond 32 bits */
    one_search(16, 640, 10, false);
}
