#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include "base/map_guard.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* A handler may only read these, and set `broken`. base is stored last and taken back first. */
enum { SLOTS = 256, FREE = 0, TAKEN = 1 };
static struct {
    _Atomic uintptr_t base;
    _Atomic size_t bytes;
    atomic_bool broken;
} slots[SLOTS];
static struct sigaction before;
static size_t page;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* The page that failed and all behind it in its mapping: of a file that was cut off they are lost as well. */
static bool replace(uintptr_t address)
{
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t base = atomic_load(&slots[i].base), end = base + atomic_load(&slots[i].bytes);
        if (base <= TAKEN || address < base || address >= end)
            continue;
        uintptr_t from = address / page * page;
        atomic_store(&slots[i].broken, true);
        return mmap((void *)from, end - from, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
    }
    return false;
}

static void on_bus(int number, siginfo_t *info, void *context)
{
    if (replace((uintptr_t)info->si_addr))
        return;
    if (before.sa_flags & SA_SIGINFO && before.sa_sigaction)
        before.sa_sigaction(number, info, context);
    else if (!(before.sa_flags & SA_SIGINFO) && before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    else
        signal(number, SIG_DFL); /* the read is tried again, and ends the process */
}

static void install(void)
{
    long bytes = sysconf(_SC_PAGESIZE);
    page = bytes > 0 ? (size_t)bytes : 4096;
    struct sigaction a = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO};
    sigemptyset(&a.sa_mask);
    sigaction(SIGBUS, &a, &before);
}

int guard_begin(const void *map, size_t bytes)
{
    pthread_once(&once, install);
    for (int i = 0; i < SLOTS; i++) {
        uintptr_t expected = FREE;
        if (!atomic_compare_exchange_strong(&slots[i].base, &expected, TAKEN))
            continue;
        atomic_store(&slots[i].bytes, bytes);
        atomic_store(&slots[i].broken, false);
        atomic_store(&slots[i].base, (uintptr_t)map);
        return i;
    }
    return -1;
}

void guard_end(int slot)
{
    if (slot >= 0)
        atomic_store(&slots[slot].base, FREE);
}

bool guard_broken(int slot) { return slot >= 0 && atomic_load(&slots[slot].broken); }
