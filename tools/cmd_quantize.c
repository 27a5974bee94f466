/* quantize: a folder to a container. */
#include "tools/command.h"

bool cmd_quantize(const options *o, status *st)
{
    (void)o;
    return status_set(st, STATUS_USAGE, "quantize: this version cannot do that yet");
}
