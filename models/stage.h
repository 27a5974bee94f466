/* stage.h: one component's forward function from plan to passes, inside the budget. */
#ifndef PENSTOCK_STAGE_H
#define PENSTOCK_STAGE_H

#include "base/footprint.h"
#include "compute/run.h"
#include "models/pipeline.h"

typedef struct engine {          /* what the stages of a pipeline share */
    const source *source;
    const request *request;
    const kernels *k;
    threads *pool;
    status *st;
    uint64_t held_bytes;         /* what the pipeline itself holds between stages: text, latents, pictures */
    result *report;
    footprint code;
    uint64_t process_bytes;      /* what there was before the pipeline: the source's tables, pictures to begin with */
} engine;

typedef void (*forward_fn)(run *r, const void *ctx);

typedef struct stage {
    engine *e;
    forward_fn forward;
    plan plan;
    run run;
    levers lever;
    residency how;
    uint64_t window_bytes;       /* of the scratch file, kept in memory */
    int passes;
    stream *stream;
    scratch_file *scratch;
    char *memory;
    size_t memory_bytes;
    stage_report *row;
} stage;

/* Planning goes on after a stage was refused for the budget, so that the least that is named is enough for all. What is planned next begins with a clean status:
 * refusal_aside takes the refusal out, refusal_back puts it back unless a larger need was found meanwhile. Returns false when st is set then. */
static inline bool planning_goes_on(const status *st) { return status_ok(st) || st->code == STATUS_BUDGET; }
status refusal_aside(status *st);
bool refusal_back(status *st, const status *before);

bool engine_open(engine *e, const source *src, const request *q, result *report, status *st);
void engine_close(engine *e);

/* Record the plan and choose levers and residency for the budget. When it does not fit: STATUS_BUDGET with the least that would.
 * ctx is only read for shapes. */
bool stage_plan(stage *s, engine *e, const char *component, const char *name, const name_alias *alias, forward_fn forward, const void *ctx, int passes);
/* The same for a forward function that may run with some of a batch's rows at a time: as many as fit, a divisor of `batch`, in *rows, which forward
 * looks at through ctx; `calls` times all parts are passes. */
bool stage_plan_parts(stage *s, engine *e, const char *component, const name_alias *alias, forward_fn forward, const void *ctx, int calls, int batch, int *rows);
bool stage_open(stage *s);                   /* memory, reader thread, vectors */
bool stage_pass(stage *s, const void *ctx);  /* one LIVE pass */
void stage_close(stage *s);                  /* gives everything back */

#endif
