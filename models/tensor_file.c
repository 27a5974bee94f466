#include "models/tensor_file.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"

bool tensor_file_open(tensor_file *t, const char *path, status *st)
{
    *t = (tensor_file){.file = io_open(path, st)};
    t->table = t->file ? safetensors_read(t->file, st) : NULL;
    return t->table != NULL;
}

void tensor_file_close(tensor_file *t)
{
    safetensors_free(t->table);
    io_close(t->file);
    *t = (tensor_file){0};
}

float *tensor_file_floats(const tensor_file *t, const safetensor *s, status *st)
{
    if (s->type != TYPE_F32 && s->type != TYPE_F16 && s->type != TYPE_BF16) {
        status_set(st, STATUS_BAD_FILE, "%s: %s: must be f32, f16 or bf16, is %s", io_name(t->file), s->name, type_of(s->type)->name);
        return NULL;
    }
    size_t count = s->bytes / (s->type == TYPE_F32 ? 4 : 2);
    uint8_t *raw = mem_alloc(1, s->bytes, s->name, st);
    float *out = raw ? mem_alloc(count, sizeof(float), s->name, st) : NULL;
    if (out && io_read(t->file, s->offset, raw, s->bytes, st))
        type_row_to_f32(kernels_best(), s->type, (int64_t)count, raw, out);
    mem_free(raw);
    if (status_ok(st))
        return out;
    mem_free(out);
    return NULL;
}

/* A trace's names are counted without a gap from 0 or 1. */
static const safetensor *last_traced(const safetensors *t, int *number)
{
    const safetensor *found = NULL;
    char name[32];
    for (int i = 0; i < 1 << 20; i++) {
        snprintf(name, sizeof name, "latents.%d", i);
        const safetensor *next = safetensors_find(t, name);
        if (!next && i > 0)
            break;
        if (next) {
            found = next;
            *number = i;
        }
    }
    return found;
}

/* `step` [2]: calls done, and of how many. */
static bool read_step(latents_file *l, const tensor_file *t, status *st)
{
    const safetensor *s = safetensors_find(t->table, "step");
    if (!s || s->dims != 1 || s->shape[0] != 2)
        return true;
    float *v = tensor_file_floats(t, s, st);
    if (v && v[0] >= 0 && v[0] <= v[1] && v[1] <= 1 << 20) {
        l->done = (int)v[0];
        l->calls = (int)v[1];
    }
    mem_free(v);
    return status_ok(st);
}

static bool read_chosen(latents_file *l, const tensor_file *t, const char *path, status *st)
{
    const safetensor *s = safetensors_find(t->table, "latents");
    if (s && !read_step(l, t, st))
        return false;
    if (!s)
        s = last_traced(t->table, &l->done);
    if (!s && t->table->tensors == 1)
        s = &t->table->tensor[0];
    if (!s)
        return status_set(st, STATUS_BAD_FILE, "%s: holds no tensor named latents", path);
    if (s->dims != 4)
        return status_set(st, STATUS_BAD_FILE, "%s: %s: must have 4 dimensions [batch, channels, h, w], has %d", path, s->name, s->dims);
    memcpy(l->shape, s->shape, sizeof l->shape);
    l->data = tensor_file_floats(t, s, st);
    return l->data != NULL;
}

bool latents_file_read(latents_file *l, const char *path, status *st)
{
    tensor_file t;
    *l = (latents_file){.done = -1};
    bool ok = tensor_file_open(&t, path, st) && read_chosen(l, &t, path, st);
    tensor_file_close(&t);
    return ok;
}
