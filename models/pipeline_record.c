/* pipeline_record: the quantizer's view of a model, each component's order of use, at any size. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "models/networks.h"
#include "models/pipe_common.h"
#include "models/pipeline.h"

/* In the order of a picture's making, which is the order of the container. */
static const char *const order[] = {"", "text_encoder", "text_encoder_2", "text_encoder_3", "bert", "prior", "transformer", "unet", "vae", "vqvae", "movq"};

static bool record_component(const source *src, const char *component, const network_row *net, const void *config, plan *p, status *st)
{
    run *r = mem_alloc(1, sizeof *r, "plan", st);
    if (!r)
        return false;
    *p = (plan){.stage = component};
    *r = (run){.st = st, .plan = p, .k = kernels_best(), .pool = threads_open(1, st), .lever = {0, 1 << 24, 0}, .source = src, .component = component,
               .alias = net->alias, .imagine = source_lacks_weights(src, component)};
    bool ok = run_begin(r);
    if (ok)
        net->record(r, config);
    threads_close(r->pool);
    mem_free(r);
    return status_ok(st);
}

static bool record_one(const source *src, const char *component, plan *p, status *st)
{
    char name[FILE_NAME_BYTES];
    json *j = read_config(src, component, "config.json", name, st);
    const network_row *net = j ? network_of(j, name, st) : NULL;
    void *config = net ? mem_alloc(1, net->config_bytes, "config", st) : NULL;
    bool ok = config && net->config_read(config, j, name, st) && record_component(src, component, net, config, p, st);
    mem_free(config);
    json_free(j);
    return ok;
}

/* The components of the model itself (stage 1), or of a further stage, which has a folder of its own. */
static int record_stage(const source *src, int number, plan *plans, int n, int room, status *st)
{
    for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
        char folder[24] = "", wanted[64];
        if (number > 1)
            snprintf(folder, sizeof folder, "stage%d/", number);
        snprintf(wanted, sizeof wanted, "%s%s", folder, order[i]);
        for (int k = 0; k < src->components && n < room && status_ok(st); k++)
            if (strcmp(src->component[k], wanted) == 0) {
                plans[n] = (plan){.stage = src->component[k]};
                n += record_one(src, src->component[k], &plans[n], st) || !status_ok(st); /* what a failure left is freed below */
            }
    }
    return n;
}

int pipeline_record(const source *src, plan *plans, int room, status *st)
{
    int n = 0;
    for (int number = 1; number <= 9; number++)
        n = record_stage(src, number, plans, n, room, st);
    if (status_ok(st) && n == 0)
        status_set(st, STATUS_BAD_FILE, "%s: has no component that penstock knows", src->path);
    if (status_ok(st))
        return n;
    for (int i = 0; i < n; i++)
        plan_free(&plans[i]);
    return -1;
}
