#include "bench.h"
#include "bench_files.h"

#include "base/log.h"
#include "mpiquant/mpiquant.h"

#include <dirent.h>
#include <string.h>

/* `mpiquant verify` of an output folder beside plain reads of its shards, cold and warm.
 *
 *     bench_verify OUT [RUNS] */

typedef mq_status (*visitor)(const char *path, char *block, int64_t *bytes);

static mq_status forget(const char *path, char *block, int64_t *bytes)
{
    (void)block;
    (void)bytes;
    forget_file(path);
    return MQ_OK;
}

static mq_status visit_shards(const char *folder, visitor visit, char *block, int64_t *bytes)
{
    mq_status status = MQ_OK;
    DIR *d = opendir(folder);
    if (!d) return mq_fail(MQ_E_IO, "%s: cannot list", folder);
    for (struct dirent *e = readdir(d); e && status == MQ_OK; e = readdir(d)) {
        char path[4096];
        const char *end = strrchr(e->d_name, '.');
        if (!end || strcmp(end, ".safetensors") != 0) continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        status = visit(path, block, bytes);
    }
    closedir(d);
    return status;
}

static mq_status measure(const char *folder, bool cold, int runs, char *block)
{
    series plain = {0}, verify = {0};
    int64_t bytes = 0;
    for (int i = 0; i < runs; i++) {
        mq_verification result;
        bytes = 0;
        if (cold) MQ_TRY(visit_shards(folder, forget, NULL, NULL));
        double start = mq_seconds();
        MQ_TRY(visit_shards(folder, read_file, block, &bytes));
        series_add(&plain, mq_seconds() - start);
        if (cold) MQ_TRY(visit_shards(folder, forget, NULL, NULL));
        start = mq_seconds();
        MQ_TRY(mq_verify(MPI_COMM_WORLD, folder, NULL, 1, &result));
        series_add(&verify, mq_seconds() - start);
    }
    series_print(cold ? "plain: pread, cold" : "plain: pread, warm", &plain, 1e-9 * (double)bytes,
                 "GB/s");
    series_print(cold ? "verify, cold" : "verify, warm", &verify, 1e-9 * (double)bytes, "GB/s");
    if (cold) series_ratio("verify / plain, cold", &verify, &plain, 0.7);
    return MQ_OK;
}

int main(int argc, char **argv)
{
    const char *folder = argc > 1 ? argv[1] : ".";
    int runs = argc > 2 ? atoi(argv[2]) : 9;
    char *block = NULL;
    MPI_Init(&argc, &argv);
    mq_status status = mq_alloc(BENCH_BLOCK, 1, "block", &block);
    if (status == MQ_OK) status = measure(folder, true, runs, block);
    if (status == MQ_OK) status = measure(folder, false, runs, block);
    if (status != MQ_OK) fprintf(stderr, "bench_verify: %s\n", mq_message());
    mq_free(&block);
    MPI_Finalize();
    return mq_exit_code(status);
}
