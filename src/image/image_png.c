#include "image/image_png.h"

#include <png.h>
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/output.h"

/* What libpng's callbacks need. libpng leaves by longjmp, so nothing that changes after setjmp may be a local. */
typedef struct writer {
    output file;
    status *st;
    jmp_buf out;
} writer;

static void on_error(png_structp png, png_const_charp message)
{
    writer *w = png_get_error_ptr(png);
    status_set(w->st, STATUS_FAILED, "%s: PNG: %s", w->file.path, message);   /* a failed write said why already */
    longjmp(w->out, 1);
}

static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_write(png_structp png, png_bytep data, size_t bytes)
{
    writer *w = png_get_io_ptr(png);
    if (!output_write(&w->file, data, bytes, w->st))
        png_error(png, "write");
}

static void on_flush(png_structp png) { (void)png; }

static png_voidp on_malloc(png_structp png, png_alloc_size_t bytes)
{
    return mem_alloc(1, bytes, "PNG", ((writer *)png_get_mem_ptr(png))->st);
}

static void on_free(png_structp png, png_voidp p)
{
    (void)png;
    mem_free(p);
}

/* ASCII goes into tEXt, which every reader knows; other UTF-8 needs iTXt (tEXt is Latin-1). */
static void set_text(png_structp png, png_infop info, const char *key, const char *value)
{
    bool ascii = true;
    for (const char *c = value; *c; c++)
        ascii = ascii && (unsigned char)*c < 0x80;
    png_text t = {.compression = ascii ? PNG_TEXT_COMPRESSION_NONE : PNG_ITXT_COMPRESSION_NONE,
                  .key = (png_charp)(uintptr_t)key,
                  .text = (png_charp)(uintptr_t)value};
    t.text_length = ascii ? strlen(value) : 0;
    t.itxt_length = ascii ? 0 : strlen(value);
    png_set_text(png, info, &t, 1);
}

static void write_all(writer *w, png_structp png, png_infop info, const uint8_t *rgb, int width, int height,
                      const char *parameters)
{
    if (setjmp(w->out))
        return;   /* the status says why */
    png_set_write_fn(png, w, on_write, on_flush);
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (parameters)
        set_text(png, info, "parameters", parameters);
    png_write_info(png, info);
    for (int y = 0; y < height; y++)
        png_write_row(png, rgb + (size_t)y * (size_t)width * 3);
    png_write_end(png, info);
}

/* Both create calls may leave by longjmp as well, where the caller's frame must still stand. */
static bool write_png(writer *w, const uint8_t *rgb, int width, int height, const char *parameters)
{
    png_structp volatile png = NULL;
    png_infop volatile info = NULL;
    if (setjmp(w->out) == 0) {
        png = png_create_write_struct_2(PNG_LIBPNG_VER_STRING, w, on_error, on_warning, w, on_malloc, on_free);
        if (png)
            info = png_create_info_struct(png);
    }
    if (png && info)
        write_all(w, png, info, rgb, width, height, parameters);
    else
        status_set(w->st, STATUS_FAILED, "%s: PNG: out of memory", w->file.path);
    if (png) {
        png_structp p = png;
        png_infop i = info;
        png_destroy_write_struct(&p, &i);
    }
    return status_ok(w->st);
}

bool image_write_png(const char *path, const uint8_t *rgb, int width, int height, const char *parameters, status *st)
{
    if (!status_ok(st))
        return false;
    if (width < 1 || height < 1)
        return status_set(st, STATUS_FAILED, "%s: PNG: a picture of %dx%d", path, width, height);
    writer w = {.st = st};
    if (!output_open(&w.file, path, st))
        return false;
    write_png(&w, rgb, width, height, parameters);
    return output_commit(&w.file, st);
}
