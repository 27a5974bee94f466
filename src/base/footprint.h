/* footprint.h: what a process holds before it has done anything: its code, and its libraries', in the page cache. */
#ifndef PENSTOCK_FOOTPRINT_H
#define PENSTOCK_FOOTPRINT_H

#include <stdint.h>

typedef struct footprint {
    uint64_t most;   /* of a process that is the first on the machine to use any of it */
    uint64_t usual;  /* without the C library, which others have brought in */
} footprint;

/* The same in every run of an installation. */
footprint footprint_of_code(void);

#endif
