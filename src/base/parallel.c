#include "base/parallel.h"

#include "base/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>

enum { MESSAGE_BYTES = 2048 };

static struct {
    pthread_t *workers;
    int n_workers;
    void (*on_start)(void);
    pthread_mutex_t lock;
    pthread_cond_t go, done;
    int64_t generation; /* counts loops; a worker joins each once */
    int busy;           /* workers still in the current loop */
    bool stop;
    /* the current loop */
    mq_task task;
    void *context;
    int64_t n_tasks;
    atomic_llong next;
    int64_t failed_at; /* lowest failing task, guarded by lock */
    mq_status failure;
    char message[MESSAGE_BYTES];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
          .go = PTHREAD_COND_INITIALIZER,
          .done = PTHREAD_COND_INITIALIZER};

static _Thread_local bool inside_task;
static _Thread_local struct {
    void *memory;
    size_t bytes;
} scratch[MQ_SCRATCH_SLOTS];

void *mq_scratch(int slot, size_t bytes)
{
    if (scratch[slot].bytes < bytes) {
        mq_free(&scratch[slot].memory);
        scratch[slot].bytes = 0;
        if (mq_alloc(1, bytes, "thread scratch", &scratch[slot].memory) != MQ_OK) return NULL;
        scratch[slot].bytes = bytes;
    }
    return scratch[slot].memory;
}

void mq_scratch_free(void)
{
    for (int i = 0; i < MQ_SCRATCH_SLOTS; i++) {
        mq_free(&scratch[i].memory);
        scratch[i].bytes = 0;
    }
}

static void record_failure(int64_t i, mq_status status)
{
    pthread_mutex_lock(&pool.lock);
    if (pool.failure == MQ_OK || i < pool.failed_at) {
        pool.failure = status;
        pool.failed_at = i;
        snprintf(pool.message, sizeof pool.message, "%s", mq_message());
    }
    pthread_mutex_unlock(&pool.lock);
}

static void run_tasks(void)
{
    inside_task = true;
    for (;;) {
        int64_t i = atomic_fetch_add(&pool.next, 1);
        if (i >= pool.n_tasks) break;
        mq_status status = pool.task(pool.context, i);
        if (status != MQ_OK) record_failure(i, status);
    }
    inside_task = false;
}

static void *worker_main(void *unused)
{
    (void)unused;
    if (pool.on_start) pool.on_start();
    int64_t seen = 0;
    pthread_mutex_lock(&pool.lock);
    for (;;) {
        while (!pool.stop && pool.generation == seen) pthread_cond_wait(&pool.go, &pool.lock);
        if (pool.stop) break;
        seen = pool.generation;
        pthread_mutex_unlock(&pool.lock);
        run_tasks();
        pthread_mutex_lock(&pool.lock);
        if (--pool.busy == 0) pthread_cond_signal(&pool.done);
    }
    pthread_mutex_unlock(&pool.lock);
    mq_scratch_free();
    return NULL;
}

mq_status mq_threads_start(int n_threads, void (*on_start)(void))
{
    mq_threads_stop();
    pool.on_start = on_start;
    pool.generation = 0;
    if (on_start) on_start();
    if (n_threads <= 1) return MQ_OK;
    MQ_TRY(mq_alloc(n_threads - 1, sizeof(pthread_t), "threads", &pool.workers));
    for (int i = 0; i < n_threads - 1; i++) {
        if (pthread_create(&pool.workers[i], NULL, worker_main, NULL) != 0) {
            mq_threads_stop();
            return mq_fail(MQ_E_INTERNAL, "cannot start thread %d of %d", i + 2, n_threads);
        }
        pool.n_workers++;
    }
    return MQ_OK;
}

void mq_threads_stop(void)
{
    pthread_mutex_lock(&pool.lock);
    pool.stop = true;
    pthread_cond_broadcast(&pool.go);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < pool.n_workers; i++) pthread_join(pool.workers[i], NULL);
    pool.n_workers = 0;
    pool.stop = false;
    mq_free(&pool.workers);
}

int mq_threads(void)
{
    return pool.n_workers + 1;
}

static mq_status run_serially(int64_t n_tasks, mq_task task, void *context)
{
    mq_status first = MQ_OK;
    for (int64_t i = 0; i < n_tasks && first == MQ_OK; i++) first = task(context, i);
    return first;
}

mq_status mq_parallel_for(int64_t n_tasks, mq_task task, void *context)
{
    if (inside_task || pool.n_workers == 0 || n_tasks <= 1) {
        return run_serially(n_tasks, task, context);
    }
    pthread_mutex_lock(&pool.lock);
    pool.task = task;
    pool.context = context;
    pool.n_tasks = n_tasks;
    atomic_store(&pool.next, 0);
    pool.failure = MQ_OK;
    pool.busy = pool.n_workers;
    pool.generation++;
    pthread_cond_broadcast(&pool.go);
    pthread_mutex_unlock(&pool.lock);
    run_tasks();
    pthread_mutex_lock(&pool.lock);
    while (pool.busy > 0) pthread_cond_wait(&pool.done, &pool.lock);
    pthread_mutex_unlock(&pool.lock);
    if (pool.failure != MQ_OK) mq_set_message(pool.message);
    return pool.failure;
}
