#include "cmd/cmd.h"

#include "base/json.h"
#include "mpiquant/mpiquant.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static mq_status fill(cJSON *o, const mq_evaluation *r, bool has_reference)
{
    MQ_TRY(mq_json_add_double(o, "perplexity", r->perplexity));
    if (has_reference) {
        MQ_TRY(mq_json_add_double(o, "reference_perplexity", r->reference_perplexity));
        MQ_TRY(mq_json_add_double(o, "kl", r->kl));
        MQ_TRY(mq_json_add_double(o, "top1", r->top1));
    }
    MQ_TRY(mq_json_add_int(o, "tokens", r->tokens));
    MQ_TRY(mq_json_add_int(o, "samples", r->samples));
    return mq_json_add_double(o, "seconds", r->seconds);
}

static mq_status print_json(const mq_evaluation *r, bool has_reference)
{
    cJSON *o = cJSON_CreateObject();
    mq_status status = fill(o, r, has_reference);
    char *text = status == MQ_OK ? mq_json_print(o) : NULL;
    if (text) fputs(text, stdout);
    cJSON_free(text);
    cJSON_Delete(o);
    return status;
}

static void print_text(const mq_evaluation *r, bool has_reference)
{
    printf("perplexity            %.6f\n", r->perplexity);
    if (has_reference) {
        printf("reference perplexity  %.6f\n", r->reference_perplexity);
        printf("KL to the reference   %.6f nats\n", r->kl);
        printf("top-1 agreement       %.3f %%\n", 100 * r->top1);
    }
    printf("tokens predicted      %" PRId64 " in %" PRId64 " samples\n", r->tokens, r->samples);
    printf("time                  %.1f s\n", r->seconds);
}

static mq_status run(const mq_comm *comm, mq_evaluate_options *o, const char *precision,
                     int64_t threads, bool json)
{
    mq_evaluation result;
    if (strcmp(precision, "f32") != 0 && strcmp(precision, "bf16") != 0) {
        return mq_fail(MQ_E_USAGE, "--precision %s: bf16 or f32", precision);
    }
    o->f32 = strcmp(precision, "f32") == 0;
    MQ_TRY(mq_cmd_int(threads, "--threads", &o->threads));
    mq_status status = mq_evaluate(comm->world, o, &result);
    if (status != MQ_OK || comm->rank != 0) return status;
    if (json) return print_json(&result, o->reference != NULL);
    print_text(&result, o->reference != NULL);
    return MQ_OK;
}

mq_status mq_cmd_eval(const mq_comm *comm, int argc, char **argv)
{
    mq_evaluate_options o;
    mq_evaluate_defaults(&o);
    const char *precision = "bf16";
    int64_t threads = o.threads;
    bool json = false, help = false;
    const mq_positional positionals[] = {
        {"MODEL", "folder of the model, original or quantised", .text = &o.model},
    };
    const mq_option options[] = {
        {"--tokens", "FILE", "tokens to predict, made by mpiquant-calib", .text = &o.tokens,
         .required = true},
        {"--reference", "DIR", "the original model: adds KL and top-1 agreement",
         .text = &o.reference},
        {"--precision", "NAME", "bf16 or f32", "bf16", .text = &precision},
        {"--samples", "N", "use the first N samples of the file; 0: all", "0",
         .integer = &o.samples},
        {"--unit-tokens", "N", "tokens that go through the model at once", "8192",
         .integer = &o.unit_tokens},
        {"--threads", "N", "threads per rank", "1", .integer = &threads},
        {"--json", .help = "print one JSON object on stdout", .flag = &json},
    };
    const mq_args_spec spec = {
        "mpiquant eval",
        "Perplexity of a model over a token file and, with a reference, how far its predictions "
        "are from the reference's. Runs on any number of ranks, with the same result.",
        positionals,
        1,
        options,
        sizeof options / sizeof *options,
        .takes_config = true};
    mq_args args = {0};
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help) status = run(comm, &o, precision, threads, json);
    mq_args_free(&args);
    return status;
}
