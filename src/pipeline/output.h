#ifndef MQ_PIPELINE_OUTPUT_H
#define MQ_PIPELINE_OUTPUT_H

#include "base/json.h"
#include "par/comm.h"

/* The output folder as a place: who may write there, what state it is in. A run owns a folder
 * through RUN_FILE in it, locked while the process lives; the file names the settings. */

typedef struct mq_output {
    char *path;
    int lock_fd; /* rank 0, else -1 */
} mq_output;

typedef enum mq_output_state {
    MQ_OUTPUT_FRESH,   /* made or emptied for this run */
    MQ_OUTPUT_FINISHED /* holds a finished run of the same settings: nothing to do */
} mq_output_state;

/** Makes or takes over the folder. `settings` (flat object, rank 0) is what the bytes of the output
 *  depend on. An unfinished run of ours is started afresh. Collective.
 *  Errors, same everywhere: MQ_E_USAGE: a file, or a folder that is not ours, or one finished with
 *  other settings (names the first that differs); MQ_E_BUSY: another process holds it; MQ_E_IO. */
mq_status mq_output_open(const mq_comm *comm, const char *path, const cJSON *settings,
                         mq_output_state *state, mq_output **out);

/** Writes one small file into the folder from rank 0 (temporary name, fsync, rename). Collective;
 *  text is significant at rank 0. */
mq_status mq_output_write(const mq_comm *comm, const mq_output *output, const char *name,
                          const char *text);

/** Ends the run: with `complete` the run file goes, without it stays and marks the folder as ours.
 *  Not collective. */
void mq_output_close(mq_output **output, bool complete);

#endif
