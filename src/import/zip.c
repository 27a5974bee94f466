/* PKWARE's APPNOTE, as far as torch uses it: no compression, no encryption, one volume; numbers beyond 32 bits in zip64's fields.
 * The directory at the end is believed only as far as the files' own headers and the archive's size agree with it. */
#include "import/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum {
    END_BYTES = 22, LOCATOR_BYTES = 20, END64_BYTES = 56, ENTRY_BYTES = 46, LOCAL_BYTES = 30,
    MOST_COMMENT = 65535, MOST_DIRECTORY = 64 << 20, ZIP64_EXTRA = 1
};

typedef struct reader {
    io *f;
    const char *file;
    status *st;
    uint64_t directory, directory_bytes, entries;
    zip *out;
} reader;

static uint64_t little(const uint8_t *p, int bytes)
{
    uint64_t n = 0;
    for (int i = bytes - 1; i >= 0; i--)
        n = n << 8 | p[i];
    return n;
}

static bool is_signature(const uint8_t *p, uint8_t a, uint8_t b) { return p[0] == 'P' && p[1] == 'K' && p[2] == a && p[3] == b; }

static bool bad(reader *r, const char *why)
{
    return status_set(r->st, STATUS_BAD_FILE, "%s: the zip archive is malformed: %s (truncated?)", r->file, why);
}

/* ---- the end of the directory ---- */

static bool read_end64(reader *r, const uint8_t *locator)
{
    uint8_t end[END64_BYTES];
    uint64_t at = little(locator + 8, 8);
    if (at > io_size(r->f) || io_size(r->f) - at < sizeof end)
        return bad(r, "its zip64 end lies outside of the file");
    if (!io_read(r->f, at, end, sizeof end, r->st))
        return false;
    if (!is_signature(end, 6, 6))
        return bad(r, "its zip64 end is not where it should be");
    r->entries = little(end + 32, 8);
    r->directory_bytes = little(end + 40, 8);
    r->directory = little(end + 48, 8);
    return true;
}

/* The end record is the last one whose comment reaches exactly to the end of the file. */
static bool read_end(reader *r)
{
    uint64_t size = io_size(r->f), most = END_BYTES + MOST_COMMENT + LOCATOR_BYTES;
    size_t bytes = (size_t)(size < most ? size : most), at = bytes;
    uint8_t *tail = mem_alloc(bytes + 1, 1, "zip directory", r->st);
    if (!tail || !io_read(r->f, size - bytes, tail, bytes, r->st)) {
        mem_free(tail);
        return false;
    }
    bool found = false;
    for (size_t i = bytes >= END_BYTES ? bytes - END_BYTES + 1 : 0; i-- > 0 && !found;)
        if (is_signature(tail + i, 5, 6) && little(tail + i + 20, 2) == bytes - i - END_BYTES) {
            at = i;
            found = true;
        }
    bool ok = found || bad(r, "its directory is missing");
    if (ok) {
        r->entries = little(tail + at + 10, 2);
        r->directory_bytes = little(tail + at + 12, 4);
        r->directory = little(tail + at + 16, 4);
        bool large = r->entries == 0xffff || r->directory_bytes == 0xffffffff || r->directory == 0xffffffff;
        if (large && at >= LOCATOR_BYTES && is_signature(tail + at - LOCATOR_BYTES, 6, 7))
            ok = read_end64(r, tail + at - LOCATOR_BYTES);
    }
    mem_free(tail);
    return ok;
}

/* ---- the entries ---- */

/* Sizes and offset of 0xffffffff stand in the zip64 field, in this order. */
static bool widen(reader *r, const uint8_t *extra, size_t bytes, uint64_t *full, uint64_t *stored, uint64_t *offset)
{
    while (bytes >= 4) {
        size_t id = (size_t)little(extra, 2), n = (size_t)little(extra + 2, 2);
        extra += 4;
        bytes -= 4;
        if (n > bytes)
            break;
        uint64_t *const wanted[] = {full, stored, offset};
        size_t used = 0;
        for (int i = 0; id == ZIP64_EXTRA && i < 3; i++) {
            if (*wanted[i] != 0xffffffff)
                continue;
            if (n - used < 8)
                return bad(r, "a zip64 field is too short");
            *wanted[i] = little(extra + used, 8);
            used += 8;
        }
        extra += n;
        bytes -= n;
    }
    return true;
}

/* Where the data begins: behind the file's own header, whose name and extra field may have other lengths than the directory's. */
static bool find_data(reader *r, zip_entry *e, uint64_t header, uint64_t bytes)
{
    uint8_t local[LOCAL_BYTES];
    if (header > r->directory || r->directory - header < sizeof local)
        return bad(r, "an entry lies outside of the file");
    if (!io_read(r->f, header, local, sizeof local, r->st))
        return false;
    if (!is_signature(local, 3, 4))
        return bad(r, "an entry is not where the directory says");
    e->offset = header + sizeof local + little(local + 26, 2) + little(local + 28, 2);
    e->bytes = bytes;
    if (e->offset > r->directory || bytes > r->directory - e->offset)
        return status_set(r->st, STATUS_BAD_FILE, "%s: %s ends at %" PRIu64 ", behind the files' part of the archive (%" PRIu64 ")", r->file, e->name,
                          e->offset + bytes, r->directory);
    return true;
}

static bool read_entry(reader *r, char *p, size_t left, size_t *used)
{
    const uint8_t *h = (const uint8_t *)p;
    if (left < ENTRY_BYTES || !is_signature(h, 1, 2))
        return bad(r, "its directory ends early");
    size_t name = (size_t)little(h + 28, 2), extra = (size_t)little(h + 30, 2), comment = (size_t)little(h + 32, 2);
    uint64_t stored = little(h + 20, 4), full = little(h + 24, 4), offset = little(h + 42, 4);
    *used = ENTRY_BYTES + name + extra + comment;
    if (left < *used)
        return bad(r, "its directory ends early");
    if (!widen(r, h + ENTRY_BYTES + name, extra, &full, &stored, &offset))
        return false;
    bool plain = little(h + 8, 2) % 2 == 0 && little(h + 10, 2) == 0 && stored == full;
    zip_entry *e = &r->out->entry[r->out->entries++];
    memmove(p, p + ENTRY_BYTES, name); /* room for the name's 0; all of this entry has been looked at */
    p[name] = 0;
    e->name = p;
    if (strlen(p) != name)
        return bad(r, "a name with a zero byte");
    if (!plain)
        return status_set(r->st, STATUS_BAD_FILE, "%s: %s is compressed or encrypted, torch stores plain files", r->file, e->name);
    return find_data(r, e, offset, stored);
}

static int by_offset(const void *a, const void *b)
{
    const zip_entry *x = a, *y = b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int by_name(const void *a, const void *b) { return strcmp(((const zip_entry *)a)->name, ((const zip_entry *)b)->name); }

static bool check_entries(reader *r)
{
    zip *z = r->out;
    if (z->entries > 1)
        qsort(z->entry, (size_t)z->entries, sizeof *z->entry, by_offset);
    for (int i = 1; i < z->entries; i++)
        if (z->entry[i - 1].offset + z->entry[i - 1].bytes > z->entry[i].offset)
            return status_set(r->st, STATUS_BAD_FILE, "%s: %s and %s overlap", r->file, z->entry[i - 1].name, z->entry[i].name);
    if (z->entries > 1)
        qsort(z->entry, (size_t)z->entries, sizeof *z->entry, by_name);
    for (int i = 1; i < z->entries; i++)
        if (strcmp(z->entry[i - 1].name, z->entry[i].name) == 0)
            return status_set(r->st, STATUS_BAD_FILE, "%s: holds %s twice", r->file, z->entry[i].name);
    return true;
}

static bool read_directory(reader *r)
{
    uint64_t size = io_size(r->f);
    if (r->directory > size || r->directory_bytes > size - r->directory || r->directory_bytes > MOST_DIRECTORY)
        return bad(r, "its directory lies outside of the file");
    if (r->entries > r->directory_bytes / ENTRY_BYTES)
        return bad(r, "its directory is too small for its entries");
    zip *z = r->out;
    size_t bytes = (size_t)r->directory_bytes, at = 0;
    z->text = mem_alloc(bytes + 1, 1, "zip directory", r->st);
    z->entry = mem_alloc((size_t)r->entries + 1, sizeof *z->entry, "zip directory", r->st);
    if (!z->text || !z->entry || !io_read(r->f, r->directory, z->text, bytes, r->st))
        return false;
    for (uint64_t i = 0; i < r->entries; i++) {
        size_t used = 0;
        if (!read_entry(r, z->text + at, bytes - at, &used))
            return false;
        at += used;
    }
    return check_entries(r);
}

zip *zip_read(io *f, status *st)
{
    reader r = {.f = f, .file = io_name(f), .st = st, .out = mem_alloc(1, sizeof *r.out, "zip archive", st)};
    if (r.out && read_end(&r) && read_directory(&r))
        return r.out;
    zip_free(r.out);
    return NULL;
}

void zip_free(zip *z)
{
    if (!z)
        return;
    mem_free(z->entry);
    mem_free(z->text);
    mem_free(z);
}

const zip_entry *zip_find(const zip *z, const char *name)
{
    zip_entry key = {.name = name};
    return z->entries ? bsearch(&key, z->entry, (size_t)z->entries, sizeof key, by_name) : NULL;
}
