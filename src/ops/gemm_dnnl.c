#include "ops/gemm_impl.h"

#ifdef MQ_WITH_DNNL

#include "base/memory.h"
#include "base/parallel.h"
#include "ops/dnnl_matmul.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

/* Making a primitive compiles code (0.3 ms, 70 kB), so each shape is made once per process. A
 * primitive is immutable: any number of threads run it at once. The cache is bounded, for ragged
 * samples ask for ever new shapes: when full, all that is not running is freed. */
enum { CAPACITY = 1024, BUCKETS = 2048 };

typedef struct entry {
    mq_gemm_shape shape;
    bool with_bias;
    dnnl_primitive_t primitive;
    atomic_int users; /* raised under the lock only, so an entry seen idle there stays idle */
    struct entry *next;
} entry;

static struct {
    pthread_mutex_t lock;
    dnnl_engine_t engine;
    entry *bucket[BUCKETS];
    int64_t n;
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

static mq_status refused(const char *what, dnnl_status_t status, const mq_gemm_shape *shape)
{
    if (status == dnnl_out_of_memory) {
        return mq_fail(MQ_E_MEMORY, "oneDNN is out of memory: %s", mq_gemm_describe(shape).text);
    }
    return mq_fail(MQ_E_INTERNAL, "oneDNN refused to %s (status %d): %s", what, (int)status,
                   mq_gemm_describe(shape).text);
}

static bool same(const entry *e, const mq_gemm_shape *s, bool with_bias)
{
    const mq_gemm_shape *t = &e->shape;
    return t->m == s->m && t->n == s->n && t->k == s->k && t->lda == s->lda && t->ldb == s->ldb &&
           t->ldc == s->ldc && t->in == s->in && t->out == s->out && t->a_trans == s->a_trans &&
           t->b_trans == s->b_trans && t->accumulate == s->accumulate && e->with_bias == with_bias;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ (h >> 29);
}

static size_t bucket_of(const mq_gemm_shape *s, bool with_bias)
{
    const int64_t dims[] = {s->m, s->n, s->k, s->lda, s->ldb, s->ldc};
    uint64_t h = (uint64_t)s->in << 8 | (uint64_t)s->out << 4 | (uint64_t)s->a_trans << 3 |
                 (uint64_t)s->b_trans << 2 | (uint64_t)s->accumulate << 1 | (uint64_t)with_bias;
    for (size_t i = 0; i < sizeof dims / sizeof *dims; i++) h = mix(h, (uint64_t)dims[i]);
    return (size_t)(h % BUCKETS);
}

static void free_idle(void)
{
    for (size_t i = 0; i < BUCKETS; i++) {
        for (entry **at = &cache.bucket[i]; *at;) {
            entry *e = *at;
            if (atomic_load(&e->users) > 0) {
                at = &e->next;
                continue;
            }
            *at = e->next;
            dnnl_primitive_destroy(e->primitive);
            mq_free(&e);
            cache.n--;
        }
    }
}

static mq_status insert(const mq_gemm_shape *shape, bool with_bias, size_t bucket, entry **out)
{
    dnnl_status_t status = dnnl_success;
    if (!cache.engine) {
        /* Ours is the only cache, or freed primitives would live on in oneDNN's. */
        dnnl_set_primitive_cache_capacity(0);
        status = dnnl_engine_create(&cache.engine, dnnl_cpu, 0);
        if (status != dnnl_success) return refused("make an engine", status, shape);
    }
    if (cache.n >= CAPACITY) free_idle();
    entry *e = NULL;
    MQ_TRY(mq_alloc(1, sizeof *e, "matrix product", &e));
    status = mq_dnnl_make_matmul(shape, with_bias, cache.engine, &e->primitive);
    if (status != dnnl_success) {
        mq_free(&e);
        return refused("make a product", status, shape);
    }
    e->shape = *shape;
    e->with_bias = with_bias;
    e->next = cache.bucket[bucket];
    cache.bucket[bucket] = e;
    cache.n++;
    *out = e;
    return MQ_OK;
}

/* The entry of a shape, held until released. */
static mq_status acquire(const mq_gemm_shape *shape, bool with_bias, entry **out)
{
    size_t bucket = bucket_of(shape, with_bias);
    mq_status status = MQ_OK;
    pthread_mutex_lock(&cache.lock);
    entry *e = cache.bucket[bucket];
    while (e && !same(e, shape, with_bias)) e = e->next;
    if (!e) status = insert(shape, with_bias, bucket, &e);
    if (status == MQ_OK) atomic_fetch_add(&e->users, 1);
    pthread_mutex_unlock(&cache.lock);
    *out = e;
    return status;
}

/* The arguments of one execution. Made per call: 0.2 us each, no state to keep per thread. */
enum { MAX_ARGS = 5 };
typedef struct arguments {
    dnnl_exec_arg_t list[MAX_ARGS];
    int n;
    const_dnnl_primitive_desc_t desc;
} arguments;

static dnnl_status_t add(arguments *args, int role, dnnl_query_t query, int index, void *data)
{
    mq_dnnl_desc desc = dnnl_primitive_desc_query_md(args->desc, query, index);
    dnnl_exec_arg_t *arg = &args->list[args->n];
    arg->arg = role;
    dnnl_status_t status = dnnl_memory_create(&arg->memory, desc, cache.engine, data);
    if (status == dnnl_success) args->n++;
    return status;
}

static void *data_of(const void *p)
{
    void *data; /* oneDNN's handles are not const; sources are only read */
    memcpy(&data, &p, sizeof data);
    return data;
}

static dnnl_status_t add_all(arguments *args, const void *a, const void *b, const float *bias,
                             void *c, void *scratch)
{
    dnnl_status_t status = add(args, DNNL_ARG_SRC, dnnl_query_src_md, 0, data_of(a));
    if (status == dnnl_success) {
        status = add(args, DNNL_ARG_WEIGHTS, dnnl_query_weights_md, 0, data_of(b));
    }
    if (status == dnnl_success && bias) {
        status = add(args, DNNL_ARG_BIAS, dnnl_query_weights_md, 1, data_of(bias));
    }
    if (status == dnnl_success) status = add(args, DNNL_ARG_DST, dnnl_query_dst_md, 0, c);
    if (status == dnnl_success && scratch) {
        status = add(args, DNNL_ARG_SCRATCHPAD, dnnl_query_scratchpad_md, 0, scratch);
    }
    return status;
}

static mq_status run(const entry *e, const void *a, const void *b, const float *bias, void *c)
{
    arguments args = {.n = 0};
    dnnl_status_t status = dnnl_primitive_get_primitive_desc(e->primitive, &args.desc);
    if (status != dnnl_success) return refused("name its memory", status, &e->shape);
    size_t bytes = dnnl_memory_desc_get_size(
        dnnl_primitive_desc_query_md(args.desc, dnnl_query_scratchpad_md, 0));
    void *scratch = bytes > 0 ? mq_scratch(MQ_SLOT_GEMM, bytes) : NULL;
    if (bytes > 0 && !scratch) {
        return mq_fail_in(MQ_E_MEMORY, "%s", mq_gemm_describe(&e->shape).text);
    }
    dnnl_stream_t stream = NULL;
    status = dnnl_stream_create(&stream, cache.engine, dnnl_stream_default_flags);
    if (status == dnnl_success) status = add_all(&args, a, b, bias, c, scratch);
    if (status == dnnl_success) {
        status = dnnl_primitive_execute(e->primitive, stream, args.n, args.list);
    }
    if (status == dnnl_success) status = dnnl_stream_wait(stream);
    for (int i = 0; i < args.n; i++) dnnl_memory_destroy(args.list[i].memory);
    if (stream) dnnl_stream_destroy(stream);
    return status == dnnl_success ? MQ_OK : refused("run a product", status, &e->shape);
}

mq_status mq_gemm_dnnl(const mq_gemm_shape *shape, const void *a, const void *b, const float *bias,
                       void *c)
{
    entry *e = NULL;
    MQ_TRY(acquire(shape, bias != NULL, &e));
    mq_status status = run(e, a, b, bias, c);
    atomic_fetch_sub(&e->users, 1);
    return status;
}

int64_t mq_gemm_dnnl_cached(void)
{
    pthread_mutex_lock(&cache.lock);
    int64_t n = cache.n;
    pthread_mutex_unlock(&cache.lock);
    return n;
}

int64_t mq_gemm_dnnl_capacity(void)
{
    return CAPACITY;
}

void mq_gemm_dnnl_stop(void)
{
    pthread_mutex_lock(&cache.lock);
    free_idle();
    if (cache.engine) dnnl_engine_destroy(cache.engine);
    cache.engine = NULL;
    pthread_mutex_unlock(&cache.lock);
}

#endif
