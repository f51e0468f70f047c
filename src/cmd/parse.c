#include "cmd/cmd.h"

#include <inttypes.h>
#include <limits.h>

mq_status mq_cmd_parse(const mq_comm *comm, const mq_args_spec *spec, int argc, char **argv,
                       mq_args *args, bool *help)
{
    mq_status status = mq_agree(comm, mq_args_parse(spec, argc, argv, args));
    *help = status == MQ_OK && args->help;
    if (*help && comm->rank == 0) mq_args_help(spec, stdout);
    return status;
}

mq_status mq_cmd_int(int64_t value, const char *option, int *out)
{
    if (value < INT_MIN || value > INT_MAX) {
        return mq_fail(MQ_E_USAGE, "%s %" PRId64 ": out of range", option, value);
    }
    *out = (int)value;
    return MQ_OK;
}
