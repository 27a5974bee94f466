#include "models/networks.h"

#include <stdio.h>
#include <string.h>

#include "models/net_clip.h"
#include "models/net_kandinsky3.h"
#include "models/net_ldmbert.h"
#include "models/net_maskgit.h"
#include "models/net_pixart.h"
#include "models/net_t5.h"
#include "models/net_unet.h"
#include "models/net_uvit.h"
#include "models/net_vae.h"
#include "models/pipe_common.h"

/* A network NAME is described by its header: NAME_config, NAME_config_read, NAME_aliases, NAME_record. */
#define READER(net) \
    static bool net##_read(void *c, const json *j, const char *name, status *st) { return net##_config_read(c, j, name, st); }
READER(clip)
READER(kandinsky3)
READER(ldmbert)
READER(maskgit)
READER(pixart)
READER(t5)
READER(unet)
READER(uvit)
READER(vae)

#define NETWORK(net, role) role, sizeof(net##_config), net##_read, net##_aliases, net##_record
static const network_row table[] = {
    {"AutoencoderKL", NULL, NETWORK(vae, ROLE_DECODER)},
    {"AutoencoderTiny", NULL, NETWORK(vae, ROLE_DECODER)},
    {"CLIPModel", "clip", NETWORK(clip, ROLE_ENCODER)},
    {"CLIPTextModel", "clip_text_model", NETWORK(clip, ROLE_ENCODER)},
    {"CLIPTextModelWithProjection", NULL, NETWORK(clip, ROLE_ENCODER)},
    {"Kandinsky3UNet", NULL, NETWORK(kandinsky3, ROLE_DENOISER)},
    {"LDMBertModel", "ldmbert", NETWORK(ldmbert, ROLE_ENCODER)},
    {"MaskGitTransformer", NULL, NETWORK(maskgit, ROLE_DENOISER)},
    {"PixArtTransformer2DModel", NULL, NETWORK(pixart, ROLE_DENOISER)},
    {"T5EncoderModel", "t5", NETWORK(t5, ROLE_ENCODER)},
    {"T5ForConditionalGeneration", NULL, NETWORK(t5, ROLE_ENCODER)},
    {"T5Model", NULL, NETWORK(t5, ROLE_ENCODER)},
    {"Transformer2DModel", NULL, NETWORK(pixart, ROLE_DENOISER)},
    {"UNet2DConditionModel", NULL, NETWORK(unet, ROLE_DENOISER)},
    {"UVit2DModel", NULL, NETWORK(uvit, ROLE_DENOISER)},
    {"VQModel", NULL, NETWORK(vae, ROLE_DECODER)},
    {"muse.MaskGitTransformer", NULL, NETWORK(maskgit, ROLE_DENOISER)},
    {"taming.models.vqgan.GumbelVQ", NULL, NETWORK(vae, ROLE_DECODER)},
    {"taming.models.vqgan.VQModel", NULL, NETWORK(vae, ROLE_DECODER)},
};
enum { ROWS = sizeof table / sizeof *table };

static const char *architecture(const json *j)
{
    const json *list = json_member(j, "architectures");
    bool any = list && json_object_is_type(list, json_type_array) && json_object_array_length(list);
    return any ? json_object_get_string(json_object_array_get_idx(list, 0)) : NULL;
}

static const network_row *unknown(const char *class_name, const char *type, const char *name, status *st)
{
    char known[480] = "";
    size_t n = 0;
    for (int i = 0; i < ROWS && n < sizeof known; i++)
        n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", table[i].class_name ? table[i].class_name : table[i].model_type);
    status_set(st, STATUS_BAD_FILE, "%s: no known network (class \"%s\", model_type \"%s\"; known are %s)", name, class_name, type, known);
    return NULL;
}

const network_row *network_of(const json *j, const char *name, status *st)
{
    const char *first = architecture(j), *class_name = json_text(j, "_class_name", first ? first : "", name, st), *type = json_text(j, "model_type", "", name, st);
    for (int i = 0; i < ROWS; i++)
        if (table[i].class_name && strcmp(table[i].class_name, class_name) == 0)
            return &table[i];
    for (int i = 0; i < ROWS; i++)
        if (table[i].model_type && strcmp(table[i].model_type, type) == 0)
            return &table[i];
    return unknown(class_name, type, name, st);
}

network_role component_role(const source *src, const char *component, status *st)
{
    char name[FILE_NAME_BYTES];
    status why = STATUS_INIT;
    json *j = read_config(src, component, "config.json", name, &why);
    const network_row *row = j ? network_of(j, name, &why) : NULL;
    json_free(j);
    if (why.code != STATUS_OK && why.code != STATUS_BAD_FILE)
        status_set(st, why.code, "%s", why.text);
    return row ? row->role : ROLE_OTHER;
}

network_role role_of_names(const name_alias *alias)
{
    for (int i = 0; i < ROWS; i++)
        if (table[i].alias == alias)
            return table[i].role;
    return ROLE_OTHER;
}

const char *role_name(network_role role)
{
    static const char *const names[ROLE_COUNT] = {"encoder", "denoiser", "decoder", "other"};
    return names[role];
}
