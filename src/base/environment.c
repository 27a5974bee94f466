#include "base/environment.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char read_variable[] = "PENSTOCK_READ", cache_variable[] = "PENSTOCK_CACHE_LIMIT", models_variable[] = "PENSTOCK_MODELS_LIMIT";

static const char *value_of(const char *variable)
{
    const char *text = getenv(variable);
    return text && *text ? text : NULL;
}

/* strtoull alone takes blanks, signs and too large a number. */
static bool read_bytes(const char *text, uint64_t *n)
{
    char *end;
    errno = 0;
    *n = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno;
}

static uint64_t bytes_of(const char *variable, uint64_t otherwise)
{
    const char *text = value_of(variable);
    uint64_t n;
    return text && read_bytes(text, &n) ? n : otherwise;
}

bool environment_check(status *st)
{
    const char *const limits[] = {cache_variable, models_variable}, *way = value_of(read_variable);
    if (way && !environment_reads_buffered())
        return status_set(st, STATUS_USAGE, "%s: \"%.60s\" is no way to read: wanted buffered, or nothing", read_variable, way);
    for (int i = 0; i < 2; i++) {
        const char *text = value_of(limits[i]);
        uint64_t n;
        if (text && !read_bytes(text, &n))
            return status_set(st, STATUS_USAGE, "%s: \"%.60s\" is no whole number of bytes", limits[i], text);
    }
    return true;
}

bool environment_reads_buffered(void)
{
    const char *way = value_of(read_variable);
    return way && strcmp(way, "buffered") == 0;
}

uint64_t environment_cache_limit(uint64_t otherwise) { return bytes_of(cache_variable, otherwise); }
uint64_t environment_models_limit(uint64_t otherwise) { return bytes_of(models_variable, otherwise); }
