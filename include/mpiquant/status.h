#ifndef MPIQUANT_STATUS_H
#define MPIQUANT_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

/** What a call ended with. Every function that can fail returns one; the text is in mq_message().
 *  The order is the order of gravity: when ranks disagree the largest wins. */
typedef enum mq_status {
    MQ_OK = 0,
    MQ_E_NOT_PD,   /**< a matrix is not positive definite: the caller damps and tries again */
    MQ_E_REQUEUE,  /**< stopped on request with a checkpoint: run the same command again */
    MQ_E_USAGE,    /**< the command line or a setting makes no sense */
    MQ_E_INPUT,    /**< a file holds what it must not hold, or lacks what it must hold */
    MQ_E_BUSY,     /**< the output folder is in use by another run */
    MQ_E_NUMERIC,  /**< NaN or inf, or a matrix no damping could mend */
    MQ_E_MEMORY,   /**< does not fit the memory plan, or an allocation failed */
    MQ_E_IO,       /**< open, read, write, fsync or rename failed; disk full */
    MQ_E_INTERNAL, /**< a defect of this program, of MPI, or a peer that died */
} mq_status;

/** The process exit code that stands for a status (0, 2, 3, 4, 5, 6, 70, 73 or 75). */
int mq_exit_code(mq_status status);

/** Short name of a status, e.g. "bad input". Never NULL. */
const char *mq_status_name(mq_status status);

/** The message of the last failure in this thread: which file, tensor or rank, what was expected,
 *  what was found, what to try. Empty when nothing failed. Valid until the next failure. */
const char *mq_message(void);

#ifdef __cplusplus
}
#endif
#endif
