#include "cmd/cmd.h"
#include "cmd/eval_result.h"

#include "base/json.h"
#include "mpiquant/mpiquant.h"

#include <stdio.h>
#include <string.h>

static mq_status print_json(const mq_evaluation *r, bool has_reference, bool per_document)
{
    cJSON *o = NULL;
    mq_status status = mq_eval_json(r, has_reference, per_document, &o);
    char *text = status == MQ_OK ? mq_json_print(o) : NULL;
    if (text) fputs(text, stdout);
    cJSON_free(text);
    cJSON_Delete(o);
    return status;
}

/* What the command line gives beside the options of the evaluation. */
typedef struct eval_args {
    mq_evaluate_options options;
    const char *precision;
    int64_t threads;
    bool json, per_document;
} eval_args;

static mq_status check(eval_args *a)
{
    if (strcmp(a->precision, "f32") != 0 && strcmp(a->precision, "bf16") != 0) {
        return mq_fail(MQ_E_USAGE, "--precision %s: bf16 or f32", a->precision);
    }
    if (a->per_document && !a->json) {
        return mq_fail(MQ_E_USAGE, "--per-document adds to the JSON object: give --json too");
    }
    a->options.f32 = strcmp(a->precision, "f32") == 0;
    return mq_cmd_int(a->threads, "--threads", &a->options.threads);
}

static mq_status run(const mq_comm *comm, eval_args *a)
{
    mq_evaluation result;
    bool has_reference = a->options.reference != NULL;
    MQ_TRY(check(a));
    MQ_TRY(mq_evaluate(comm->world, &a->options, &result));
    mq_status status = MQ_OK;
    if (comm->rank == 0 && a->json) {
        status = print_json(&result, has_reference, a->per_document);
    } else if (comm->rank == 0) {
        mq_eval_print(&result, has_reference);
    }
    mq_evaluation_free(&result);
    return status;
}

mq_status mq_cmd_eval(const mq_comm *comm, int argc, char **argv)
{
    eval_args a = {.precision = "bf16"};
    mq_evaluate_options *o = &a.options;
    mq_evaluate_defaults(o);
    a.threads = o->threads;
    bool help = false;
    const mq_positional positionals[] = {
        {"MODEL", "folder of the model, original or quantised", .text = &o->model},
    };
    const mq_option options[] = {
        {"--tokens", "FILE", "tokens to predict, made by mpiquant-calib", .text = &o->tokens,
         .required = true},
        {"--reference", "DIR", "the original model: adds KL and top-1 agreement",
         .text = &o->reference},
        {"--precision", "NAME", "bf16 or f32", "bf16", .text = &a.precision},
        {"--samples", "N", "use the first N samples of the file; 0: all", "0",
         .integer = &o->samples},
        {"--by-position", "N",
         "also the figures of N equal shares of the positions in a sample; 0: none", "0",
         .integer = &o->position_bins},
        {"--per-document", .help = "also the sums of every sample; with --json",
         .flag = &a.per_document},
        {"--unit-tokens", "N", "tokens that go through the model at once", "8192",
         .integer = &o->unit_tokens},
        {"--threads", "N", "threads per rank", "1", .integer = &a.threads},
        {"--json", .help = "print one JSON object on stdout", .flag = &a.json},
    };
    const mq_args_spec spec = {
        "mpiquant eval",
        "Perplexity of a model over a token file and, with a reference, how far its predictions "
        "are from the reference's, each with a 95 % confidence interval over the samples. Runs on "
        "any number of ranks, with the same result.",
        positionals,
        1,
        options,
        sizeof options / sizeof *options,
        .takes_config = true};
    mq_args args = {0};
    mq_status status = mq_cmd_parse(comm, &spec, argc, argv, &args, &help);
    if (status == MQ_OK && !help) status = run(comm, &a);
    mq_args_free(&args);
    return status;
}
