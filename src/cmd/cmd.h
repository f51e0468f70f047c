#ifndef MQ_CMD_CMD_H
#define MQ_CMD_CMD_H

#include "base/args.h"
#include "par/comm.h"

/* One file per command: arguments in, one call down, text out. Collective on comm; argv[0] is the
 * command's name. */

mq_status mq_cmd_quantize(const mq_comm *comm, int argc, char **argv);
mq_status mq_cmd_eval(const mq_comm *comm, int argc, char **argv);
mq_status mq_cmd_verify(const mq_comm *comm, int argc, char **argv);
mq_status mq_cmd_inspect(const mq_comm *comm, int argc, char **argv);

/** Parses on every rank and agrees; *help is set when the help was asked for (rank 0 has printed
 *  it then, and there is nothing more to do). */
mq_status mq_cmd_parse(const mq_comm *comm, const mq_args_spec *spec, int argc, char **argv,
                       mq_args *args, bool *help);

/** value as an int, for an option. Errors: MQ_E_USAGE naming it. */
mq_status mq_cmd_int(int64_t value, const char *option, int *out);

#endif
