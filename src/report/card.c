#include "report/report.h"

#include "base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { CARD_BYTES = 8192 };

static int print_front(char *at, size_t room, const mq_quantize_options *o, const char *model)
{
    return snprintf(at, room,
                    "---\nbase_model: %s\nlibrary_name: transformers\nquantization: gptq\n"
                    "tags:\n- gptq\n- mpiquant\n- %d-bit\n---\n\n"
                    "# %s, quantised to %d bits\n\n"
                    "Made by mpiquant %s from `%s`: GPTQ (v1), symmetric, %d bits, group size "
                    "%" PRId64 ".\n\n",
                    model, o->bits, model, o->bits, mq_version(), model, o->bits, o->group);
}

static int print_figures(char *at, size_t room, const mq_report *report, const mq_arch *arch,
                         const mq_quantize_options *o, const mq_calib *calib)
{
    double mean = NAN, largest = NAN;
    const mq_layer_result *worst = NULL;
    char name[256] = "none";
    mq_report_summary(report, &mean, &largest, &worst);
    if (worst) mq_arch_linear_name(arch, worst->linear, worst->block, name, sizeof name);
    return snprintf(
        at, room,
        "## Calibration\n\n"
        "| | |\n|---|---|\n| source | %s |\n| samples | %" PRId64 " |\n| tokens | %" PRId64 " |\n"
        "| damping | %g of the mean diagonal |\n\n"
        "## Losses\n\n"
        "Relative loss of a layer: the squared error of its outputs over the calibration "
        "tokens, divided by the outputs' own sum of squares.\n\n"
        "| | |\n|---|---|\n| layers quantised | %" PRId64 " |\n| mean relative loss | "
        "%.3g |\n| largest | %.3g (`%s`) |\n| rounded to nearest as a last resort | "
        "%" PRId64 " |\n\n"
        "Every layer is listed in `mq_report.json`.\n\n",
        calib->source, calib->n_samples, calib->n_tokens, o->damping, report->n_layers, mean,
        largest, name, mq_report_fallbacks(report));
}

static int print_use(char *at, size_t room)
{
    return snprintf(at, room,
                    "## How to load it\n\n"
                    "```python\nfrom gptqmodel import GPTQModel\n"
                    "model = GPTQModel.load(\"PATH\")\n```\n\n"
                    "or, with `gptqmodel` or `optimum` installed beside it,\n\n"
                    "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
                    "model = AutoModelForCausalLM.from_pretrained(\"PATH\")\n"
                    "tokenizer = AutoTokenizer.from_pretrained(\"PATH\")\n```\n\n"
                    "The licence is that of the source model.\n");
}

static const char *last_part(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

mq_status mq_report_card(const mq_report *report, const mq_arch *arch,
                         const mq_quantize_options *options, const mq_calib *calib, char **out)
{
    MQ_TRY(mq_alloc(CARD_BYTES, 1, "model card", out));
    char *at = *out, *end = *out + CARD_BYTES;
    /* snprintf never writes past the room; a card that long would only be cut. */
    at += print_front(at, (size_t)(end - at), options, last_part(options->model));
    if (at < end) at += print_figures(at, (size_t)(end - at), report, arch, options, calib);
    if (at < end) print_use(at, (size_t)(end - at));
    return MQ_OK;
}
