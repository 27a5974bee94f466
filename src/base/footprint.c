/* Whoever touches a page of a file first is charged for it, and for what the kernel reads ahead around it. With a read-ahead of 128 KiB that is little more
 * than what is loaded; some virtual machines have 8 MiB, and then a program is in memory whole, its symbols for the debugger included. Both are to be known
 * beforehand, and must not depend on what happens to be in the cache: so it is reckoned from the files' sizes. */
#define _GNU_SOURCE
#include "base/footprint.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#ifdef __linux__
#include <link.h>
#include <sys/sysmacros.h>

/* Bytes, UINT64_MAX: the system does not say. */
static uint64_t read_ahead_of(dev_t device)
{
    static const char *const paths[] = {"/sys/class/bdi/%u:%u/read_ahead_kb", "/sys/dev/block/%u:%u/../queue/read_ahead_kb"};
    char path[128];
    unsigned long kib;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, i ? paths[1] : paths[0], major(device), minor(device));
        FILE *f = fopen(path, "re");
        int found = f ? fscanf(f, "%lu", &kib) : 0;
        if (f)
            fclose(f);
        if (found == 1)
            return (uint64_t)kib << 10;
    }
    return UINT64_MAX;
}

static int add_object(struct dl_phdr_info *info, size_t size, void *out)
{
    footprint *f = out;
    const char *name = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe", *slash = strrchr(name, '/');
    uint64_t loaded = 0;
    struct stat s;
    (void)size;
    if (stat(name, &s) != 0)
        return 0;   /* the kernel's own, which lies in no file */
    for (int i = 0; i < info->dlpi_phnum; i++)
        loaded += info->dlpi_phdr[i].p_type == PT_LOAD ? info->dlpi_phdr[i].p_filesz : 0;
    uint64_t ahead = read_ahead_of(s.st_dev), bytes = (uint64_t)s.st_size;
    if (ahead < bytes && loaded + ahead < bytes)
        bytes = loaded + ahead;
    bytes = (bytes + 4095) / 4096 * 4096;
    f->most += bytes;
    if (slash && (strncmp(slash, "/libc.", 6) == 0 || strncmp(slash, "/ld-", 4) == 0 || strncmp(slash, "/libc-", 6) == 0))
        return 0;
    f->usual += bytes;
    return 0;
}

footprint footprint_of_code(void)
{
    footprint f = {0, 0};
    dl_iterate_phdr(add_object, &f);
    return f;
}
#else
footprint footprint_of_code(void)
{
    return (footprint){10 << 20, 7 << 20};
}
#endif
