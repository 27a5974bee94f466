#include <errno.h>
#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "image/pixmap.h"

enum { LARGEST_SIDE = 16384 };

/* What libpng's callbacks need. libpng leaves by longjmp, so nothing that changes after setjmp may be a local. */
typedef struct reader {
    const char *path;
    FILE *file;
    pixmap *picture;
    status *st;
    char warning[96];  /* the last one: of a bad header libpng tells there what is bad */
    jmp_buf out;
} reader;

static void on_error(png_structp png, png_const_charp message)
{
    reader *r = png_get_error_ptr(png);
    bool header = strstr(message, "IHDR") && *r->warning;
    status_set(r->st, STATUS_BAD_FILE, "%s: PNG: %s%s%s", r->path, message, header ? ": " : "", header ? r->warning : "");
    longjmp(r->out, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    reader *r = png_get_error_ptr(png);
    snprintf(r->warning, sizeof r->warning, "%s", message);
}

static void on_read(png_structp png, png_bytep data, size_t bytes)
{
    reader *r = png_get_io_ptr(png);
    if (fread(data, 1, bytes, r->file) != bytes)
        png_error(png, ferror(r->file) ? strerror(errno) : "the file ends early");
}

static png_voidp on_malloc(png_structp png, png_alloc_size_t bytes)
{
    return mem_alloc(1, bytes, "PNG", ((reader *)png_get_mem_ptr(png))->st);
}

static void on_free(png_structp png, png_voidp p)
{
    (void)png;
    mem_free(p);
}

static void as_rgb(png_structp png)
{
    png_set_expand(png);
    png_set_scale_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
}

static void read_all(reader *r, png_structp png, png_infop info)
{
    if (setjmp(r->out))
        return; /* the status says why */
    png_set_read_fn(png, r, on_read);
    png_set_user_limits(png, LARGEST_SIDE, LARGEST_SIDE);
    png_read_info(png, info);
    as_rgb(png);
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    pixmap *p = r->picture;
    p->width = (int)png_get_image_width(png, info);
    p->height = (int)png_get_image_height(png, info);
    size_t row = (size_t)p->width * 3;
    if (png_get_rowbytes(png, info) != row)
        png_error(png, "not an RGB picture");
    p->rgb = mem_alloc((size_t)p->height, row, r->path, r->st);
    for (int pass = 0; p->rgb && pass < passes; pass++)
        for (int y = 0; y < p->height; y++)
            png_read_row(png, p->rgb + (size_t)y * row, NULL);
    if (p->rgb)
        png_read_end(png, NULL);
}

/* Both create calls may leave by longjmp as well, where the caller's frame must still stand. */
static void read_png(reader *r)
{
    png_structp volatile png = NULL;
    png_infop volatile info = NULL;
    if (setjmp(r->out) == 0) {
        png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, r, on_error, on_warning, r, on_malloc, on_free);
        if (png)
            info = png_create_info_struct(png);
    }
    if (png && info)
        read_all(r, png, info);
    else
        status_set(r->st, STATUS_FAILED, "%s: PNG: out of memory", r->path);
    if (png) {
        png_structp p = png;
        png_infop i = info;
        png_destroy_read_struct(&p, &i, NULL);
    }
}

/* What it is instead, as far as one can tell. */
static const char *other_kind(const unsigned char head[8])
{
    static const struct { const char *begin; size_t bytes; const char *kind; } kinds[] = {
        {"\xff\xd8\xff", 3, " but a JPEG"}, {"GIF8", 4, " but a GIF"}, {"RIFF", 4, " but a WebP"}, {"BM", 2, " but a BMP"}, {"II*", 3, " but a TIFF"}, {"MM", 2, " but a TIFF"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (memcmp(head, kinds[i].begin, kinds[i].bytes) == 0)
            return kinds[i].kind;
    return "";
}

bool image_read_png(const char *path, pixmap *p, status *st)
{
    *p = (pixmap){0};
    reader r = {.path = path, .picture = p, .st = st, .file = fopen(path, "rbe")};
    if (!r.file)
        return status_set(st, STATUS_BAD_FILE, "%s: %s", path, strerror(errno));
    unsigned char head[8] = {0};
    if (fread(head, 1, sizeof head, r.file) != sizeof head || png_sig_cmp(head, 0, sizeof head))
        status_set(st, STATUS_BAD_FILE, "%s: not a PNG picture%s", path, other_kind(head));
    else if (fseek(r.file, 0, SEEK_SET) == 0)
        read_png(&r);
    else
        status_set(st, STATUS_BAD_FILE, "%s: %s", path, strerror(errno));
    fclose(r.file);
    if (!status_ok(st))
        pixmap_free(p);
    return status_ok(st);
}

void pixmap_free(pixmap *p)
{
    mem_free(p->rgb);
    *p = (pixmap){0};
}
