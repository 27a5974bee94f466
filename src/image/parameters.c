#include "image/parameters.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

/* A1111's names of the samplers; what is not here keeps ours. */
static const char *const names[][2] = {
    {"ddim", "DDIM"}, {"ddpm", "DDPM"}, {"pndm", "PNDM"}, {"lms", "LMS"}, {"euler", "Euler"}, {"euler_a", "Euler a"},
    {"heun", "Heun"}, {"dpm++2m", "DPM++ 2M"}, {"dpm++2m_sde", "DPM++ 2M SDE"}, {"dpm++2s", "DPM++ 2S"}, {"unipc", "UniPC"},
    {"lcm", "LCM"}, {"tcd", "TCD"}, {"karras", "Karras"}, {"exponential", "Exponential"}, {"simple", "Simple"}, {"beta", "Beta"},
};

static const char *name_there(const char *ours)
{
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(names[i][0], ours) == 0)
            return names[i][1];
    return ours;
}

/* "folder/penstock-small.penstock" -> "penstock-small"; "folder/" -> "folder". Commas would end the field. */
static void model_name(const char *path, char *out, size_t room)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    size_t n = end - begin < room - 1 ? end - begin : room - 1;
    memcpy(out, path + begin, n);
    out[n] = 0;
    char *dot = strrchr(out, '.');
    if (dot && dot != out && (strcmp(dot, ".penstock") == 0 || strcmp(dot, ".safetensors") == 0))
        *dot = 0;
    for (char *c = out; *c; c++)
        if (*c == ',' || *c == ':' || *c == '"')
            *c = '_';
}

char *picture_parameters(const picture_settings *p, status *st)
{
    char model[200], scale[48] = "", schedule[64] = "";
    model_name(p->model ? p->model : "", model, sizeof model);
    if (!isnan(p->guidance_scale))
        snprintf(scale, sizeof scale, ", CFG scale: %.6g", p->guidance_scale);
    if (p->schedule)
        snprintf(schedule, sizeof schedule, ", Schedule type: %s", name_there(p->schedule));
    return mem_format(st, "%s%s%s\nSteps: %d, Sampler: %s%s%s, Seed: %" PRIu64 ", Size: %dx%d, Model: %s, Version: penstock %s",
                      p->prompt ? p->prompt : "", p->negative_prompt && *p->negative_prompt ? "\nNegative prompt: " : "",
                      p->negative_prompt && *p->negative_prompt ? p->negative_prompt : "", p->steps,
                      p->sampler ? name_there(p->sampler) : "", schedule, scale, p->seed, p->width, p->height, model,
                      PACKAGE_VERSION);
}
