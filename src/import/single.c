/* One file that is a whole model, or a part of one, by itself: safetensors, a torch checkpoint, GGUF. */
#include "base/mem.h"
#include "import/draft.h"

static bool add_all(draft *d, const tensor_table *t)
{
    draft_component(d, "");
    for (int i = 0; i < t->tensors; i++)
        draft_weight_add(d, &t->tensor[i]);
    return status_ok(d->st);
}

source *source_open_single(const char *path, status *st)
{
    draft d = {.st = st, .path = path};
    io *f = io_open(path, st);
    tensor_table *t = f ? table_read(f, st) : NULL;
    if (!t)
        io_close(f);
    else if (draft_file(&d, f, "single")) {
        draft_hash(&d, &t->hash, sizeof t->hash);
        add_all(&d, t);
    }
    table_free(t);
    source *s = draft_finish(&d);
    if (s)
        s->single = true;
    return s;
}
