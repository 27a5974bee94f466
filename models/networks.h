/* networks.h: the table of networks, by what a component's config.json says of itself. A network is a row of networks.c. */
#ifndef PENSTOCK_NETWORKS_H
#define PENSTOCK_NETWORKS_H

#include "import/json.h"
#include "models/stage.h"

typedef struct network_row {
    const char *class_name;  /* _class_name (diffusers), or an entry of architectures (transformers); NULL: not told by it */
    const char *model_type;  /* transformers' model_type, asked when no class name fits; NULL: not told by it */
    network_role role;
    size_t config_bytes;
    bool (*config_read)(void *config, const json *j, const char *name, status *st);
    const name_alias *alias;
    forward_fn record;       /* every entry point once, in the order of a picture's making, at any size; ctx is the config */
} network_row;

/* The row of a component's config.json. name: its file, for the sentence that lists what is known. NULL with st set. */
const network_row *network_of(const json *j, const char *name, status *st);

/* Of a component, by its config.json; ROLE_OTHER where that is missing or of no known network, and with st set where it could not be told. */
network_role component_role(const source *src, const char *component, status *st);
network_role role_of_names(const name_alias *alias); /* of the network whose names these are */
const char *role_name(network_role role); /* "encoder" */

#endif
