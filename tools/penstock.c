/* penstock: pictures from text, on the processor, in the memory that you name. Commands are rows of command.c. */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/environment.h"
#include "base/output.h"
#include "tools/command.h"

/* Half-written files go, then the signal does what it would have done: the shell must see that it was a signal. */
static void on_signal(int number)
{
    output_remove_unfinished();
    signal(number, SIG_DFL);
    raise(number);
}

static void catch_signals(void)
{
    const int deadly[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        struct sigaction was, on = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
        sigfillset(&on.sa_mask);
        bool ignored = sigaction(deadly[i], NULL, &was) == 0 && was.sa_handler == SIG_IGN;
        if (!ignored || deadly[i] == SIGINT || deadly[i] == SIGTERM)   /* nohup stays nohup */
            sigaction(deadly[i], &on, NULL);
    }
    signal(SIGXFSZ, SIG_IGN);   /* a file size limit is a failed write, told in a sentence */
}

static void help(void)
{
    printf("penstock %s: pictures from text, on the processor, in the memory that you name\n\n"
           "usage: penstock COMMAND [options]\n\n", PACKAGE_VERSION);
    for (const command *c = commands; c->name; c++)
        printf("  %-10s  %s\n", c->name, c->about);
    printf("\npenstock COMMAND --help lists a command's options. The shortest way to a picture:\n"
           "  penstock generate -p \"a red circle above a blue square\" -o picture.png\n");
}

static const command *command_named(const char *name, status *st)
{
    const char *names[32];
    int n = 0;
    for (const command *c = commands; c->name; c++) {
        if (strcmp(c->name, name) == 0)
            return c;
        names[n++] = c->name;
    }
    names[n] = NULL;
    const char *near = nearest(name, names);
    if (name[0] == '-')
        status_set(st, STATUS_USAGE, "%s: a command comes first, as in: penstock generate %s ...", name, name);
    else if (near)
        status_set(st, STATUS_USAGE, "%s: no such command; did you mean %s?", name, near);
    else
        status_set(st, STATUS_USAGE, "%s: no such command; see penstock --help", name);
    return NULL;
}

static void tell(const status *st, bool json)
{
    fprintf(stderr, "penstock: %s\n", st->text);
    if (json && st->code == STATUS_BUDGET)
        printf("{\"least_bytes\": %" PRIu64 "}\n", st->least_bytes);
}

/* What stdout could not take must not look like success. */
static void check_stdout(status *st)
{
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout))
        status_set(st, STATUS_FAILED, "standard output: cannot be written: %s", strerror(errno ? errno : EIO));
}

static void dispatch(int argc, char **argv, options *o, status *st)
{
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 && argc > 2) {
        const command *c = command_named(argv[2], st);
        if (c)
            options_help(c);
    } else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0)
        help();
    else if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0)
        printf("penstock %s\n", PACKAGE_VERSION);
    else {
        const command *c = command_named(name, st);
        if (!c || !options_parse(o, c, argc - 1, argv + 1, st))
            return;
        if (o->help)
            options_help(c);
        else if (environment_check(st))
            c->run(o, st);
    }
}

int main(int argc, char **argv)
{
    status st = STATUS_INIT;
    options o = {0};
    catch_signals();
    if (argc < 2)
        status_set(&st, STATUS_USAGE, "no command: see penstock --help");
    else
        dispatch(argc, argv, &o, &st);
    check_stdout(&st);
    if (!status_ok(&st))
        tell(&st, o.json);
    options_free(&o);
    check_stdout(&st);
    return (int)st.code;
}
