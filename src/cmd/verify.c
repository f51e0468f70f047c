#include "cmd/cmd.h"

#include "mpiquant/mpiquant.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static void print(const char *output, const mq_verification *r)
{
    printf("%s: good\n", output);
    printf("  %" PRId64 " tensors, %" PRId64 " packed layers, %.1f MB: headers, shapes, checksums, "
           "scales and group indices checked\n",
           r->tensors, r->layers, (double)r->bytes / 1e6);
    if (!isnan(r->worst_error)) {
        printf("  weights as far from the source as the report says; largest relative error %.3e "
               "(%s)\n",
               r->worst_error, r->worst_layer);
    }
}

mq_status mq_cmd_verify(const mq_comm *comm, int argc, char **argv)
{
    const char *output = NULL, *source = NULL;
    int64_t threads = 1;
    bool help = false;
    const mq_positional positionals[] = {
        {"OUT", "output folder of mpiquant quantize", .text = &output},
    };
    const mq_option options[] = {
        {"--source", "DIR", "the original model: also compares the weights", .text = &source},
        {"--threads", "N", "threads per rank", "1", .integer = &threads},
    };
    const mq_args_spec spec = {
        "mpiquant verify",
        "Checks every header, offset, shape, scale and checksum of an output folder; with --source "
        "also that its weights are as far from the original ones as the report says. Exit code 3 "
        "when something is wrong.",
        positionals,
        1,
        options,
        sizeof options / sizeof *options,
        .takes_config = true};
    mq_args args = {0};
    mq_verification result;
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help) {
        int n = 0;
        status = mq_cmd_int(threads, "--threads", &n);
        if (status == MQ_OK) status = mq_verify(comm->world, output, source, n, &result);
        if (status == MQ_OK && comm->rank == 0) print(output, &result);
    }
    mq_args_free(&args);
    return status;
}
