/* environment.h: penstock's own variables that hold more than a name (HACKING has the table of all). Empty is as not set. */
#ifndef PENSTOCK_ENVIRONMENT_H
#define PENSTOCK_ENVIRONMENT_H

#include <stdint.h>

#include "base/status.h"

/* Can every one of them be what it says? Asked once, before anything runs: STATUS_USAGE names the first that cannot. */
bool environment_check(status *st);

/* After that: */
bool environment_reads_buffered(void);                              /* PENSTOCK_READ */
uint64_t environment_cache_limit(uint64_t otherwise);               /* PENSTOCK_CACHE_LIMIT, bytes */
uint64_t environment_models_limit(uint64_t otherwise);              /* PENSTOCK_MODELS_LIMIT, bytes */

#endif
