#include "base/status.h"

#include <stdarg.h>
#include <stdio.h>

bool status_set(status *st, status_code code, const char *format, ...)
{
    if (st->code != STATUS_OK)
        return false;
    va_list args;
    va_start(args, format);
    vsnprintf(st->text, sizeof st->text, format, args);
    va_end(args);
    for (char *c = st->text; *c; c++)   /* names come from files: keep terminals and one-line logs safe */
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    st->code = code;
    return false;
}
