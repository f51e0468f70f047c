#ifndef MQ_PAR_DESCRIBE_H
#define MQ_PAR_DESCRIBE_H

/** The MPI library in one line, e.g. "Open MPI v4.1.4". Valid for the life of the process. */
const char *mq_mpi_describe(void);

#endif
