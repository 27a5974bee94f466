#include "tools/sizes.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A line "KEY: value [kB]" or "KEY value" of a file under /proc or /sys; KEY "" is the first number. UINT64_MAX: none. */
static uint64_t number_in(const char *path, const char *key)
{
    char line[256];
    uint64_t found = UINT64_MAX;
    FILE *f = fopen(path, "re");
    while (f && found == UINT64_MAX && fgets(line, sizeof line, f)) {
        size_t n = strlen(key);
        if (strncmp(line, key, n) != 0)
            continue;
        const char *p = line + n + strspn(line + n, ": \t");
        char *end;
        uint64_t value = strtoull(p, &end, 10);
        if (end != p)
            found = strstr(end, "kB") ? value * 1024 : value;
    }
    if (f)
        fclose(f);
    return found;
}

uint64_t peak_memory(void)
{
    uint64_t bytes = number_in("/proc/self/status", "VmHWM");
    return bytes == UINT64_MAX ? 0 : bytes;
}

/* What one control group leaves: its limit less what it holds, page cache not counted, as that gives way. */
static uint64_t left_in_group(const char *folder, const char *limit, const char *usage, const char *inactive, const char *active)
{
    char path[PATH_MAX + 64];
    snprintf(path, sizeof path, "%s/%s", folder, limit);
    uint64_t most = number_in(path, "");
    if (most == UINT64_MAX)
        return UINT64_MAX;   /* "max", or no such group */
    snprintf(path, sizeof path, "%s/%s", folder, usage);
    uint64_t held = number_in(path, "");
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    uint64_t a = number_in(path, inactive), b = number_in(path, active);
    uint64_t cache = (a == UINT64_MAX ? 0 : a) + (b == UINT64_MAX ? 0 : b);
    held = held == UINT64_MAX || held < cache ? 0 : held - cache;
    return most > held ? most - held : 0;
}

/* Version 2: this process's group and those above it, each may have a limit. In a container the path may lead outside of what
 * can be seen; then the root of what is mounted is the group. Version 1: the memory controller's. */
static uint64_t left_in_groups(void)
{
    char line[PATH_MAX], folder[PATH_MAX + 32];
    uint64_t least = left_in_group("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file", "active_file");
    uint64_t v1 = left_in_group("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                                "total_active_file");
    least = v1 < least ? v1 : least;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f)) {
        bool two = strncmp(line, "0::", 3) == 0;
        char *path = two ? line + 3 : strstr(line, ":memory:");
        if (!path)
            continue;
        path += two ? 0 : 8;
        path[strcspn(path, "\n")] = 0;
        for (; *path == '/' && path[1]; *strrchr(path, '/') = 0) {
            snprintf(folder, sizeof folder, "/sys/fs/cgroup%s%s", two ? "" : "/memory", path);
            uint64_t left = two ? left_in_group(folder, "memory.max", "memory.current", "inactive_file", "active_file")
                                : left_in_group(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
                                                "total_active_file");
            least = left < least ? left : least;
        }
    }
    if (f)
        fclose(f);
    return least;
}

static uint64_t available_memory(void)
{
    uint64_t system = number_in("/proc/meminfo", "MemAvailable"), group = left_in_groups();
    uint64_t least = system < group ? system : group;
    return least == UINT64_MAX ? 0 : least;
}

static bool not_a_size(const char *option, const char *text, status *st)
{
    return status_set(st, STATUS_USAGE, "--%s: must be a size such as 256M, 1.5G, 60%% or =-1G, is '%s'", option, text);
}

/* "1.5G" to bytes; *end points behind it. false: no number, or too large. */
static bool amount(const char *text, double *bytes, const char **end)
{
    char *e;
    if ((!isdigit((unsigned char)*text) && *text != '.') || (text[0] == '0' && tolower((unsigned char)text[1]) == 'x'))
        return false;   /* strtod would take "inf", "nan", "0x" and signs */
    double x = strtod(text, &e);
    static const char units[] = "KMGT";
    const char *unit = *e ? strchr(units, toupper((unsigned char)*e)) : NULL;
    if (unit) {
        x = ldexp(x, 10 * (int)(1 + unit - units));
        e += 1;
        if (e[0] == 'i' && e[1] == 'B')
            e += 2;
        else if (e[0] == 'B')
            e += 1;
    }
    *end = e;
    *bytes = x;
    return e != text && x < 9e18;
}

bool parse_size(const char *option, const char *text, uint64_t *bytes, status *st)
{
    const char *p = text + (*text == '='), *end;
    bool less = *p == '-';
    double x;
    if (!amount(p + less, &x, &end))
        return not_a_size(option, text, st);
    bool percent = !less && *end == '%';
    if (end[percent])
        return not_a_size(option, text, st);
    if (less || percent) {
        double have = (double)available_memory();
        if (have == 0)
            return status_set(st, STATUS_USAGE, "--%s: '%s': this system does not say how much memory is available", option, text);
        x = percent ? have * x / 100 : have - x;
        if (x < 1)
            return status_set(st, STATUS_USAGE, "--%s: '%s' leaves nothing: %.0f bytes are available", option, text, have);
    }
    if (x < 1)
        return status_set(st, STATUS_USAGE, "--%s: must be more than 0", option);
    *bytes = (uint64_t)x;
    return true;
}

char *size_text(uint64_t bytes, char out[SIZE_TEXT])
{
    const char *units = "KMG";
    int u = bytes < 1 << 20 ? 0 : bytes < 10ull << 30 ? 1 : 2;
    uint64_t unit = 1ull << 10 * (u + 1);
    snprintf(out, SIZE_TEXT, "%" PRIu64 "%c", bytes / unit + (bytes % unit != 0), units[u]);
    return out;
}
