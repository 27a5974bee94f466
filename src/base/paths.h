/* paths.h: where the program's own data lie: the small model, the dimensions of known systems. */
#ifndef PENSTOCK_PATHS_H
#define PENSTOCK_PATHS_H

#include "base/status.h"

/* The first place that has NAME ("penstock-small.penstock", "configs/sd15"): beside the program when it runs where it was built,
 * then as installed relative to the program, then where it was configured to go. NULL without a word in st when there is none;
 * the caller frees with mem_free. */
char *paths_data(const char *name, status *st);

/* What a command without -m uses: $PENSTOCK_MODEL, or the small model. NULL with st set when there is none. */
char *paths_model(status *st);

/* The user's cache for NAME: $XDG_CACHE_HOME/penstock/NAME or ~/.cache/penstock/NAME, made where it is not there yet (which may fail, the
 * caller will see); "" is penstock's own. NULL without a word in st when the environment names no home. */
char *paths_cache(const char *name, status *st);

#endif
