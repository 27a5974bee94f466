/* Pillow's resampling of 8-bit pixels (src/libImaging/Resample.c): weights in fixed point of 22 bits, columns and rows in two passes, each rounded to
 * 8 bits. Which pass comes first shows in the result: until version 12 always the columns', since 13 the rows' where they shrink by more than twice
 * of what the columns do (this rule gives the order of all of 1,403 random sizes). */
#include "image/pixmap.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { PRECISION = 32 - 8 - 2 };

static double lanczos3(double x)
{
    static const double pi = 3.14159265358979323846;
    if (x < -3 || x >= 3)
        return 0;
    if (x == 0)
        return 1;
    double a = x * pi, b = x / 3 * pi;
    return sin(a) / a * (sin(b) / b);
}

static double bicubic(double x)
{
    double a = -0.5;
    x = fabs(x);
    return x < 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

typedef struct filter {
    double (*at)(double);
    double support;
} filter;
static const filter filter_lanczos = {lanczos3, 3}, filter_bicubic = {bicubic, 2};

typedef struct weights {
    int room;            /* of one result pixel */
    int *first, *count;  /* [out] input pixels */
    int32_t *of;         /* [out, room] */
} weights;

static void weights_free(weights *w)
{
    mem_free(w->first);
    mem_free(w->count);
    mem_free(w->of);
}

static bool weights_of(weights *w, int in, int out, const filter *f, status *st)
{
    double scale = (double)in / out, stretch = scale < 1 ? 1 : scale, support = f->support * stretch;
    w->room = (int)ceil(support) * 2 + 1;
    w->first = mem_alloc((size_t)out, sizeof *w->first, "picture", st);
    w->count = mem_alloc((size_t)out, sizeof *w->count, "picture", st);
    w->of = mem_alloc((size_t)out * (size_t)w->room, sizeof *w->of, "picture", st);
    double *k = mem_alloc((size_t)w->room, sizeof *k, "picture", st);
    for (int i = 0; status_ok(st) && i < out; i++) {
        double centre = (i + 0.5) * scale, sum = 0;
        int low = (int)(centre - support + 0.5), high = (int)(centre + support + 0.5);
        low = low < 0 ? 0 : low;
        high = high > in ? in : high;
        for (int x = 0; x < high - low; x++)
            sum += k[x] = f->at((x + low - centre + 0.5) * (1 / stretch));
        for (int x = 0; x < high - low; x++) {
            double v = sum != 0 ? k[x] / sum : k[x];
            w->of[(size_t)i * (size_t)w->room + (size_t)x] = (int32_t)((v < 0 ? -0.5 : 0.5) + v * (1 << PRECISION));
        }
        w->first[i] = low;
        w->count[i] = high - low;
    }
    mem_free(k);
    return status_ok(st);
}

static uint8_t clipped(int32_t sum)
{
    int32_t v = sum >> PRECISION;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* One result value: `count` inputs, `stride` bytes apart. */
static uint8_t weighed(const uint8_t *in, size_t stride, const int32_t *k, int count)
{
    int32_t sum = 1 << (PRECISION - 1);
    for (int i = 0; i < count; i++)
        sum += in[(size_t)i * stride] * k[i];
    return clipped(sum);
}

static void resize_columns(const pixmap *in, const weights *w, pixmap *out)
{
    for (int y = 0; y < out->height; y++)
        for (int x = 0; x < out->width; x++)
            for (int c = 0; c < 3; c++)
                out->rgb[((size_t)y * (size_t)out->width + (size_t)x) * 3 + (size_t)c] =
                    weighed(in->rgb + ((size_t)y * (size_t)in->width + (size_t)w->first[x]) * 3 + (size_t)c, 3, w->of + (size_t)x * (size_t)w->room, w->count[x]);
}

static void resize_rows(const pixmap *in, const weights *w, pixmap *out)
{
    size_t row = (size_t)in->width * 3;
    for (int y = 0; y < out->height; y++)
        for (size_t i = 0; i < row; i++)
            out->rgb[(size_t)y * row + i] = weighed(in->rgb + (size_t)w->first[y] * row + i, row, w->of + (size_t)y * (size_t)w->room, w->count[y]);
}

static bool blank(pixmap *p, int width, int height, status *st)
{
    *p = (pixmap){width, height, mem_alloc((size_t)width * (size_t)height, 3, "picture", st)};
    return p->rgb != NULL;
}

/* One pass, or a copy where there is nothing to do. */
static bool pass(const pixmap *in, int width, int height, const filter *f, pixmap *out, status *st)
{
    weights w = {0};
    bool columns = width != in->width, same = !columns && height == in->height;
    bool ok = blank(out, width, height, st) && (same || weights_of(&w, columns ? in->width : in->height, columns ? width : height, f, st));
    if (ok && same)
        memcpy(out->rgb, in->rgb, (size_t)width * (size_t)height * 3);
    else if (ok && columns)
        resize_columns(in, &w, out);
    else if (ok)
        resize_rows(in, &w, out);
    weights_free(&w);
    return ok;
}

static bool resize(const pixmap *in, int width, int height, const filter *f, pixmap *out, status *st)
{
    pixmap between = {0};
    bool rows_first = in->height > height && in->height - height > 2 * (in->width - width);
    *out = (pixmap){0};
    bool ok = pass(in, rows_first ? in->width : width, rows_first ? height : in->height, f, &between, st) && pass(&between, width, height, f, out, st);
    pixmap_free(&between);
    return ok;
}

bool pixmap_resize(const pixmap *in, int width, int height, pixmap *out, status *st) { return resize(in, width, height, &filter_lanczos, out, st); }
bool pixmap_resize_bicubic(const pixmap *in, int width, int height, pixmap *out, status *st) { return resize(in, width, height, &filter_bicubic, out, st); }

uint8_t pixmap_gray(const uint8_t *rgb) { return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000) >> 16); }
