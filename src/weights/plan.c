#include "weights/plan.h"

#include "base/mem.h"

void plan_free(plan *p)
{
    for (int i = 0; i < p->imagined_count; i++) {
        mem_free((char *)(uintptr_t)p->imagined[i]->name);
        mem_free(p->imagined[i]->part);
        mem_free(p->imagined[i]);
    }
    mem_free(p->imagined);
    mem_free(p->use);
    *p = (plan){0};
}

bool plan_mappable(const plan *p, const source *s)
{
    for (int i = 0; i < p->uses; i++)
        if (p->use[i].weight->file >= 0 && !io_can_map(s->file[p->use[i].weight->file]))
            return false;
    return true;
}
