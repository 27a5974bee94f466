/* test_png.c: pictures and traces on their way to the disk. */
#include <criterion/criterion.h>
#include <png.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/output.h"
#include "base/trace.h"
#include "image/image_png.h"
#include "image/parameters.h"

static char folder[] = "/tmp/penstock-png-XXXXXX";
static char path[64];

static void setup(void)
{
    cr_assert(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/out.png", folder);
}

static void teardown(void)
{
    unlink(path);
    cr_expect_eq(rmdir(folder), 0, "something was left behind");
}

TestSuite(png, .init = setup, .fini = teardown);

static bool exists(const char *name)
{
    struct stat s;
    return stat(name, &s) == 0;
}

/* Read back with libpng's simple interface plus its text chunks. */
static void check_file(const uint8_t *rgb, unsigned width, unsigned height, const char *parameters)
{
    FILE *f = fopen(path, "rb");
    cr_assert(f);
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_init_io(png, f);
    png_read_png(png, info, PNG_TRANSFORM_IDENTITY, NULL);
    cr_assert_eq(png_get_image_width(png, info), width);
    cr_assert_eq(png_get_image_height(png, info), height);
    cr_assert_eq(png_get_color_type(png, info), PNG_COLOR_TYPE_RGB);
    png_bytepp rows = png_get_rows(png, info);
    for (unsigned y = 0; y < height; y++)
        cr_assert_arr_eq(rows[y], rgb + (size_t)y * width * 3, width * 3);
    png_textp text = NULL;
    int n = png_get_text(png, info, &text, NULL);
    cr_assert_eq(n, parameters ? 1 : 0);
    if (parameters) {
        cr_assert_str_eq(text[0].key, "parameters");
        cr_assert_str_eq(text[0].text, parameters);
    }
    png_destroy_read_struct(&png, &info, NULL);
    fclose(f);
}

static void fill(uint8_t *rgb, size_t n)
{
    uint32_t r = 7;
    for (size_t i = 0; i < n; i++) {
        r = r * 1664525u + 1013904223u;
        rgb[i] = (uint8_t)(r >> 24);
    }
}

Test(png, round_trip)
{
    enum { W = 37, H = 19 };
    uint8_t rgb[W * H * 3];
    status st = STATUS_INIT;
    fill(rgb, sizeof rgb);
    size_t before = mem_in_use();
    cr_assert(image_write_png(path, rgb, W, H, "a cat\nSteps: 4", &st), "%s", st.text);
    cr_assert_eq(mem_in_use(), before);
    check_file(rgb, W, H, "a cat\nSteps: 4");
    cr_assert(image_write_png(path, rgb, 1, 1, NULL, &st));   /* over an old file */
    check_file(rgb, 1, 1, NULL);
}

Test(png, utf8_text)
{
    uint8_t rgb[3] = {1, 2, 3};
    status st = STATUS_INIT;
    cr_assert(image_write_png(path, rgb, 1, 1, "une œuvre, 日本", &st));
    check_file(rgb, 1, 1, "une œuvre, 日本");
}

Test(png, unwritable_folder)
{
    uint8_t rgb[3] = {0};
    status st = STATUS_INIT;
    cr_assert_not(image_write_png("/nonexistent/folder/x.png", rgb, 1, 1, NULL, &st));
    cr_assert_eq(st.code, STATUS_FAILED);
    cr_assert(strstr(st.text, "/nonexistent/folder/x.png"));
    status again = STATUS_INIT;
    cr_assert_not(output_check("/nonexistent/folder/x.png", &again));
    status fine = STATUS_INIT;
    cr_assert(output_check(path, &fine));
    cr_assert_not(exists(path));
}

Test(png, full_disk)
{
    enum { W = 200, H = 200 };
    static uint8_t rgb[W * H * 3];
    status st = STATUS_INIT;
    fill(rgb, sizeof rgb);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit was, small = {10000, 10000};
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
    bool good = image_write_png(path, rgb, W, H, NULL, &st);
    setrlimit(RLIMIT_FSIZE, &was);
    cr_assert_not(good);
    cr_assert_eq(st.code, STATUS_FAILED);
    cr_assert(strstr(st.text, path), "%s", st.text);
    cr_assert_not(exists(path));   /* teardown looks for the unfinished file */
}

Test(png, device_full)
{
    uint8_t rgb[3] = {0};
    status st = STATUS_INIT;
    if (!exists("/dev/full"))
        return;
    cr_assert_not(image_write_png("/dev/full", rgb, 1, 1, NULL, &st));
    cr_assert_eq(st.code, STATUS_FAILED);
    cr_assert(exists("/dev/full"));
}

Test(png, out_of_memory_anywhere)
{
    enum { W = 16, H = 16 };
    uint8_t rgb[W * H * 3];
    fill(rgb, sizeof rgb);
    size_t before = mem_in_use();
    for (long n = 1;; n++) {
        status st = STATUS_INIT;
        mem_fail_at(n);
        bool good = image_write_png(path, rgb, W, H, "x", &st);
        mem_fail_at(0);
        cr_assert_eq(mem_in_use(), before, "leak when allocation %ld fails", n);
        if (good)
            break;
        cr_assert_eq(st.code, STATUS_FAILED);
        cr_assert_not(exists(path));
        cr_assert_lt(n, 200);
    }
    check_file(rgb, W, H, "x");
}

Test(png, through_a_link)
{
    uint8_t rgb[3] = {9, 8, 7};
    char link[80];
    status st = STATUS_INIT;
    cr_assert(image_write_png(path, rgb, 1, 1, NULL, &st));
    snprintf(link, sizeof link, "%s/link.png", folder);
    cr_assert_eq(symlink(path, link), 0);
    cr_assert(image_write_png(link, rgb, 1, 1, "new", &st));
    struct stat s;
    cr_assert_eq(lstat(link, &s), 0);
    cr_assert(S_ISLNK(s.st_mode));
    check_file(rgb, 1, 1, "new");
    unlink(link);
}

Test(parameters, form_of_a1111)
{
    status st = STATUS_INIT;
    picture_settings p = {.prompt = "a cat", .negative_prompt = "dogs", .sampler = "dpm++2m", .schedule = "karras",
                          .model = "/models/penstock-small.penstock", .steps = 20, .width = 512, .height = 256,
                          .guidance_scale = 4.5, .seed = 7};
    char *text = picture_parameters(&p, &st);
    cr_assert_str_eq(text, "a cat\nNegative prompt: dogs\nSteps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, "
                           "Seed: 7, Size: 512x256, Model: penstock-small, Version: penstock " PACKAGE_VERSION);
    mem_free(text);
    p = (picture_settings){.prompt = "x", .sampler = "odd", .model = "folder/sd,15/", .guidance_scale = NAN, .steps = 1,
                           .width = 8, .height = 8};
    text = picture_parameters(&p, &st);
    cr_assert_str_eq(text, "x\nSteps: 1, Sampler: odd, Seed: 0, Size: 8x8, Model: sd_15, Version: penstock " PACKAGE_VERSION);
    mem_free(text);
}

Test(png, trace_is_safetensors)
{
    status st = STATUS_INIT;
    size_t before = mem_in_use();
    trace *t = trace_open(&st);
    float a[6] = {1, 2, 3, 4, 5, 6}, b[1] = {-1};
    int64_t shape[2] = {2, 3};
    cr_assert(trace_add(t, "latents.0", b, 0, NULL, &st));
    cr_assert(trace_add(t, "text.\"x\"", a, 2, shape, &st));
    cr_assert(trace_add(NULL, "nothing", a, 2, shape, &st));
    int dims;
    const int64_t *found_shape;
    cr_assert_eq(trace_find(t, "latents.0", &dims, &found_shape)[0], -1);
    cr_assert_null(trace_find(t, "latents.1", &dims, &found_shape));
    cr_assert(trace_write(t, path, &st), "%s", st.text);
    trace_close(t);
    cr_assert_eq(mem_in_use(), before);
    static const char header[] = "{\"latents.0\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                                 "\"text.\\\"x\\\"\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]}}";
    uint8_t file[512];
    FILE *f = fopen(path, "rb");
    size_t n = fread(file, 1, sizeof file, f);
    fclose(f);
    size_t length = file[0] + 256u * file[1];
    cr_assert_eq(length % 8, 0);
    cr_assert_eq(n, 8 + length + 28);
    cr_assert_eq(memcmp(file + 8, header, strlen(header)), 0);
    float read[7];
    memcpy(read, file + 8 + length, sizeof read);
    cr_assert_eq(read[0], -1);
    cr_assert_eq(read[6], 6);
}
