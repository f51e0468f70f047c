#include "cmd/cmd.h"

mq_status mq_cmd_parse(const mq_comm *comm, const mq_args_spec *spec, int argc, char **argv,
                       mq_args *args, bool *help)
{
    mq_status status = mq_agree(comm, mq_args_parse(spec, argc, argv, args));
    *help = status == MQ_OK && args->help;
    if (*help && comm->rank == 0) mq_args_help(spec, stdout);
    return status;
}
