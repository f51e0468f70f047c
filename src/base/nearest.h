#ifndef MQ_BASE_NEAREST_H
#define MQ_BASE_NEAREST_H

/* "Did you mean ...?": the candidate closest to a word that was not understood.
 *
 *     mq_nearest near = {.word = "--bit"};
 *     for (...) mq_nearest_offer(&near, name[i]);
 *     if (near.best) ... */

typedef struct mq_nearest {
    const char *word;
    const char *best; /* NULL while nothing resembles the word */
    int distance;
} mq_nearest;

/** Takes the candidate when it is closer than all before: edit distance (insert, delete, replace a
 *  character; '_' equals '-'), at most a third of the word or 2; a candidate that begins with the
 *  word counts as distance 1. The candidate is borrowed. */
void mq_nearest_offer(mq_nearest *near, const char *candidate);

#endif
