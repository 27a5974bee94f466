/* test_pixmap.c: pictures that are given: what Pillow 13 makes of them, and files that are none. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "image/image_png.h"
#include "image/pixmap.h"

enum { WIDTH = 7, HEIGHT = 5 };

static pixmap pattern(void)
{
    status st = STATUS_INIT;
    pixmap p = {WIDTH, HEIGHT, mem_alloc(WIDTH * HEIGHT, 3, "test", &st)};
    for (int i = 0; p.rgb && i < WIDTH * HEIGHT * 3; i++)
        p.rgb[i] = (uint8_t)((i * 37 + i * i * 11 + 11) % 256);
    cr_assert(p.rgb);
    return p;
}

typedef struct golden {
    int width, height;
    const uint8_t *rgb;
} golden;

static const uint8_t golden_4x9[] = {
    115, 60, 177, 192, 85, 246, 247, 105, 178, 190, 73, 121, 73, 48, 148, 127, 138, 210, 218, 111, 182, 164, 70, 117,
    37, 50, 112, 46, 204, 156, 156, 139, 183, 128, 89, 101, 105, 112, 122, 77, 173, 142, 90, 214, 171, 131, 159, 68,
    205, 166, 175, 161, 114, 161, 70, 242, 155, 165, 219, 46, 223, 140, 230, 165, 156, 162, 89, 171, 148, 184, 220, 46,
    186, 114, 203, 112, 168, 123, 128, 80, 169, 188, 175, 110, 164, 147, 107, 71, 85, 68, 144, 64, 203, 188, 142, 197,
    152, 175, 42, 52, 26, 38, 147, 73, 223, 185, 127, 246,
};
static const uint8_t golden_12x2[] = {
    59, 53, 86, 88, 80, 139, 134, 118, 213, 154, 117, 212, 131, 131, 172, 99, 191, 162, 95, 202, 168, 136, 153, 174,
    218, 122, 179, 232, 122, 140, 131, 129, 64, 54, 135, 19, 161, 142, 163, 173, 151, 148, 182, 152, 128, 170, 120, 137,
    115, 101, 124, 41, 123, 70, 48, 134, 115, 129, 124, 224, 176, 121, 228, 175, 146, 147, 169, 189, 102, 162, 213, 88,
};
static const uint8_t golden_3x3[] = {
    70, 75, 152, 159, 147, 197, 175, 86, 127, 165, 133, 170, 96, 182, 159, 138, 197, 83, 156, 137, 112, 103, 77, 135,
    187, 136, 191,
};
static const uint8_t golden_7x5[] = {
    11, 59, 129, 221, 79, 215, 117, 41, 243, 211, 201, 213, 247, 47, 125, 225, 91, 235, 145, 77, 31, 7, 5, 25,
    67, 131, 217, 69, 199, 95, 13, 209, 171, 155, 161, 189, 239, 55, 149, 9, 147, 51, 233, 181, 151, 143, 157, 193,
    251, 75, 177, 45, 191, 103, 37, 249, 227, 227, 249, 37, 103, 191, 45, 177, 75, 251, 193, 157, 143, 151, 181, 233,
    51, 147, 9, 149, 55, 239, 189, 161, 155, 171, 209, 13, 95, 199, 69, 217, 131, 67, 25, 5, 7, 31, 77, 145,
    235, 91, 225, 125, 47, 247, 213, 201, 211,
};
static const uint8_t golden_2x6[] = {
    153, 82, 208, 216, 93, 158, 62, 122, 150, 147, 123, 150, 112, 152, 147, 103, 202, 118, 184, 147, 197, 128, 203, 96,
    133, 122, 151, 151, 123, 144, 102, 97, 61, 152, 88, 212,
};
static const uint8_t grays[] = {
    53, 137, 87, 205, 116, 147, 92, 8, 122, 148, 146, 162, 121, 95, 193, 157, 139, 137, 183, 218, 148, 126, 166, 178,
    103, 104, 169, 175, 153, 149, 11, 71, 149, 93, 206,
};

/* 12x2 goes through the rows first */
static const golden goldens[] = {{4, 9, golden_4x9}, {12, 2, golden_12x2}, {3, 3, golden_3x3}, {7, 5, golden_7x5}, {2, 6, golden_2x6}};

Test(pixmap, resized_as_pillow_does)
{
    status st = STATUS_INIT;
    pixmap in = pattern(), out;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) {
        const golden *g = &goldens[i];
        cr_assert(pixmap_resize(&in, g->width, g->height, &out, &st), "%s", st.text);
        cr_expect_eq(out.width, g->width);
        cr_expect_eq(out.height, g->height);
        for (int k = 0; k < g->width * g->height * 3; k++)
            cr_assert_eq(out.rgb[k], g->rgb[k], "%dx%d: value %d is %d, wanted %d", g->width, g->height, k, out.rgb[k], g->rgb[k]);
        pixmap_free(&out);
    }
    pixmap_free(&in);
}

Test(pixmap, gray_as_pillow_does)
{
    pixmap in = pattern();
    for (size_t i = 0; i < sizeof grays; i++)
        cr_expect_eq(pixmap_gray(in.rgb + 3 * i), grays[i], "pixel %zu", i);
    pixmap_free(&in);
}

static char path[] = "/tmp/penstock-pixmap-XXXXXX";

static void make_file(void) { close(mkstemp(path)); }
static void remove_file(void) { unlink(path); }

Test(pixmap, what_was_written_is_read, .init = make_file, .fini = remove_file)
{
    status st = STATUS_INIT;
    pixmap in = pattern(), out;
    cr_assert(image_write_png(path, in.rgb, in.width, in.height, "some text", &st));
    cr_assert(image_read_png(path, &out, &st), "%s", st.text);
    cr_expect_eq(out.width, WIDTH);
    cr_expect_eq(out.height, HEIGHT);
    cr_expect_arr_eq(out.rgb, in.rgb, WIDTH * HEIGHT * 3);
    pixmap_free(&in);
    pixmap_free(&out);
}

/* Cut at every byte, and one byte changed at a time: a sentence or a picture, never a crash. */
Test(pixmap, damaged_files, .init = make_file, .fini = remove_file)
{
    status st = STATUS_INIT;
    pixmap in = pattern(), out;
    static uint8_t bytes[4096], copy[4096];
    cr_assert(image_write_png(path, in.rgb, in.width, in.height, NULL, &st));
    FILE *f = fopen(path, "rb");
    size_t n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    cr_assert(n > 60 && n < sizeof bytes);
    for (size_t i = 0; i < 2 * n; i++) {
        bool cut = i < n;
        status s = STATUS_INIT;
        memcpy(copy, bytes, n);
        if (!cut)
            copy[i - n] ^= 0x55;
        f = fopen(path, "wb");
        fwrite(copy, 1, cut ? i : n, f);
        fclose(f);
        bool read = image_read_png(path, &out, &s);
        cr_expect_neq(read, s.code != STATUS_OK);
        cr_expect(!cut || i > n - 12 || s.code == STATUS_BAD_FILE, "cut at %zu: %d %s", i, s.code, s.text);
        cr_expect(read || out.rgb == NULL);
        pixmap_free(&out);
    }
    pixmap_free(&in);
}

Test(pixmap, no_file)
{
    status st = STATUS_INIT;
    pixmap p;
    cr_expect_not(image_read_png("/nowhere/x.png", &p, &st));
    cr_expect_eq(st.code, STATUS_BAD_FILE);
    cr_expect(strstr(st.text, "/nowhere/x.png"));
}
