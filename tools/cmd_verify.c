/* verify: recompute every checksum of a container. Whatever else is wrong with the file, opening it has said so already. */
#include <inttypes.h>
#include <stdio.h>

#include "tools/command.h"
#include "tools/sizes.h"
#include "weights/pack.h"

static void show(void *ctx, uint64_t bytes, uint64_t all) { progress_show(ctx, "verify", (int)(bytes >> 20), (int)(all >> 20)); }

bool cmd_verify(const options *o, status *st)
{
    source *s = open_model(o, st);
    char size[SIZE_TEXT];
    progress p;
    if (!s)
        return false;
    progress_start(&p, o->quiet || o->json);
    if (!s->container)
        status_set(st, STATUS_USAGE, "%s: a folder has no checksums, only a container has", s->path);
    else if (pack_verify(s, show, &p, st)) {
        uint64_t bytes = 0;
        for (int i = 0; i < s->files; i++)
            bytes += io_size(s->file[i]);
        progress_end(&p);
        if (o->json)
            printf("{\"extents\": %d, \"bytes\": %" PRIu64 ", \"right\": true}\n", s->extents, bytes);
        else if (!o->quiet)
            printf("%s: %s in %d extents, every checksum is right\n", s->path, size_text(bytes, size), s->extents);
    }
    progress_end(&p);
    source_close(s);
    return status_ok(st);
}
