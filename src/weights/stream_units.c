#include "weights/stream_units.h"

#include "base/mem.h"

static bool push(unit_list *l, unit u, status *st)
{
    if (l->count == l->room) {
        int room = l->room ? l->room * 2 : 256;
        unit *more = mem_resize(l->unit, (size_t)room, sizeof *more, "stream", st);
        if (!more)
            return false;
        l->unit = more;
        l->room = room;
    }
    l->unit[l->count++] = u;
    return true;
}

static bool cut_part(unit_list *l, int use, const plan_use *pu, int part, uint64_t unit_bytes, status *st)
{
    const weight *w = pu->weight;
    const weight_part *p = &w->part[part];
    uint64_t one = type_unit_bytes(w->type, &pu->matrix), head = type_head_bytes(w->type);
    int64_t step_rows = type_unit_rows(w->type), per = unit_bytes > one ? (int64_t)(unit_bytes / one) : 1;
    for (int64_t row = 0; row < p->rows; row += per * step_rows) {
        int64_t rows = p->rows - row < per * step_rows ? p->rows - row : per * step_rows;
        uint64_t units = (uint64_t)((rows + step_rows - 1) / step_rows);
        unit u = {.use = use, .part = part, .first_row = p->first_row + row, .rows = rows,
                  .offset = p->offset + (row ? head + (uint64_t)(row / step_rows) * one : 0),
                  .bytes = units * one + (row ? 0 : head), .head_bytes = row ? 0 : (uint32_t)head};
        if (u.offset + u.bytes > p->offset + p->bytes)
            return status_set(st, STATUS_BAD_FILE, "%s/%s: %llu bytes are too few for its shape", w->component, w->name, (unsigned long long)p->bytes);
        if (!push(l, u, st))
            return false;
    }
    return true;
}

bool units_build(unit_list *l, const plan *p, uint64_t unit_bytes, status *st)
{
    *l = (unit_list){0};
    l->first = mem_alloc((size_t)p->uses + 1, sizeof *l->first, "stream", st);
    if (!l->first)
        return false;
    for (int i = 0; i < p->uses; i++) {
        const plan_use *u = &p->use[i];
        l->first[i] = l->count;
        if (u->role == ROLE_VECTOR || u->role == ROLE_EMBEDDING)
            continue;
        for (int part = 0; part < u->weight->parts; part++)
            if (!cut_part(l, i, u, part, unit_bytes, st)) {
                units_free(l);
                return false;
            }
    }
    l->first[p->uses] = l->count;
    return true;
}

void units_free(unit_list *l)
{
    mem_free(l->unit);
    mem_free(l->first);
    *l = (unit_list){0};
}

uint64_t unit_slot_bytes(const unit *u)
{
    uint64_t begin = u->offset / IO_ALIGN * IO_ALIGN, end = round_up(u->offset + u->bytes, IO_ALIGN);
    return end - begin;
}

uint64_t units_pin(unit_list *l, uint64_t pin_bytes)
{
    uint64_t total = 0, pinned = 0, seen = 0;
    for (int i = 0; i < l->count; i++)
        total += unit_slot_bytes(&l->unit[i]);
    for (int i = 0; i < l->count; i++) {
        uint64_t slot = unit_slot_bytes(&l->unit[i]);
        seen += slot;
        /* Bresenham: keep pinned / seen near pin_bytes / total */
        double due = total ? (double)seen * ((double)pin_bytes / (double)total) : 0;
        if (pinned + slot <= pin_bytes && (pin_bytes >= total || (double)pinned + (double)slot / 2 <= due)) {
            l->unit[i].pinned = true;
            pinned += slot;
        }
    }
    return pinned;
}

bool ring_find(ring_space *r, size_t bytes, size_t *start)
{
    if (r->taken == 0)
        r->head = r->tail = 0;
    if (r->taken == 0 || r->tail > r->head) {
        if (r->bytes - r->tail >= bytes)
            *start = r->tail;
        else if (r->head > bytes)
            *start = 0;
        else
            return false;
    } else if (r->head > r->tail + bytes) {
        *start = r->tail;
    } else {
        return false;
    }
    return true;
}
