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

static void whole_to_f32(weight_type type, size_t count, const uint8_t *raw, float *out)
{
    for (size_t i = 0; i < count; i++) {
        int64_t wide = 0;
        int32_t narrow = 0;
        if (type == TYPE_I64)
            memcpy(&wide, raw + i * 8, 8);
        else
            memcpy(&narrow, raw + i * 4, 4);
        out[i] = type == TYPE_I64 ? (float)wide : (float)narrow;
    }
}

float *tensor_file_floats(const tensor_file *t, const safetensor *s, status *st)
{
    bool whole = s->type == TYPE_I64 || s->type == TYPE_I32;
    if (!whole && s->type != TYPE_F32 && s->type != TYPE_F16 && s->type != TYPE_BF16) {
        status_set(st, STATUS_BAD_FILE, "%s: %s: must be f32, f16, bf16, i64 or i32, is %s", io_name(t->file), s->name, type_of(s->type)->name);
        return NULL;
    }
    size_t count = s->bytes / (size_t)type_of(s->type)->element_bytes;
    uint8_t *raw = mem_alloc(1, s->bytes, s->name, st);
    float *out = raw ? mem_alloc(count, sizeof(float), s->name, st) : NULL;
    if (out && io_read(t->file, s->offset, raw, s->bytes, st)) {
        if (whole)
            whole_to_f32(s->type, count, raw, out);
        else
            type_row_to_f32(kernels_best(), s->type, (int64_t)count, raw, out);
    }
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
    if (s->dims != 4 && s->dims != 3)
        return status_set(st, STATUS_BAD_FILE, "%s: %s: must have 4 dimensions [batch, channels, h, w], or 3 if tokens [batch, h, w], has %d", path, s->name, s->dims);
    l->shape[0] = s->shape[0];
    l->shape[1] = s->dims == 4 ? s->shape[1] : 0;
    l->shape[2] = s->shape[s->dims - 2];
    l->shape[3] = s->shape[s->dims - 1];
    if (s->dims == 4 && s->shape[1] == 0)
        return status_set(st, STATUS_BAD_FILE, "%s: %s: has no channels", path, s->name);
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
