#include "report/report.h"

#include "base/memory.h"
#include "format/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last part of a path, without trailing slashes: what a model is called. */
static void print_name(FILE *f, const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/') end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/') begin--;
    fprintf(f, "%.*s", (int)(end - begin), path + begin);
}

/* Text for a cell of a table: one line, bars escaped. */
static void print_cell(FILE *f, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (*c == '|') fputc('\\', f);
        fputc((unsigned char)*c < 0x20 ? ' ' : *c, f);
    }
}

static double asked_bits(const mq_quantize_options *o)
{
    return o->average_bits > 0 ? o->average_bits : o->bits;
}

/* What the hub calls the ways of quantising, and the texts that differ by format. */
typedef struct form {
    const char *format, *tag, *name, *library; /* library: that loads it */
} form;

static const form *form_of(const mq_quantize_options *o)
{
    static const form forms[] = {
        {"gptq", "gptq", "GPTQ (v1), symmetric", "transformers"},
        {"gptq_v2", "gptq", "GPTQ (v2)", "transformers"},
        {"compressed-tensors", "compressed-tensors", "compressed-tensors", "transformers"},
        {"exl2", "exl2", "EXL2", "exllamav2"},
        {"gguf", "gguf", "GGUF, for llama.cpp", "gguf"},
        {"dense", NULL, "dequantised weights", "transformers"}};
    const char *name = mq_format_find(o->format, o->zero_points)->name;
    size_t i = 0;
    while (i + 1 < sizeof forms / sizeof *forms && strcmp(forms[i].format, name) != 0) i++;
    return &forms[i];
}

static bool is_gguf(const mq_quantize_options *o)
{
    return strcmp(form_of(o)->format, mq_format_gguf.name) == 0;
}

static void print_front(FILE *f, const mq_quantize_options *o)
{
    const char *tag = form_of(o)->tag;
    fputs("---\nbase_model: ", f);
    print_name(f, o->model);
    fprintf(f, "\nlibrary_name: %s\n", form_of(o)->library);
    if (tag) fprintf(f, "quantization: %s\n", tag);
    fputs("tags:\n", f);
    if (tag) fprintf(f, "- %s\n", tag);
    fprintf(f, "- mpiquant\n- %g-bit\n---\n\n# ", asked_bits(o));
    print_name(f, o->model);
    fprintf(f, ", quantised to %g bits\n\nMade by mpiquant %s from `", asked_bits(o), mq_version());
    print_name(f, o->model);
    fprintf(f, "`.\n\n");
}

static void print_settings(FILE *f, const mq_quantize_options *o, int64_t n_blocks)
{
    fprintf(f, "## Settings\n\n| | |\n|---|---|\n| format | %s%s |\n| bits | %g%s |\n",
            form_of(o)->name, o->zero_points ? ", with zero points" : "", asked_bits(o),
            o->average_bits > 0 ? " a weight at most, on average; each layer's: `mq_report.json`"
                                : "");
    if (o->group == -1) {
        fputs("| group size | -1: one scale a row |\n", f);
    } else {
        fprintf(f, "| group size | %" PRId64 " |\n", o->group);
    }
    if (o->positive_scales) fputs("| scales | positive only |\n", f);
    if (o->damping > 0) {
        fprintf(f, "| damping | %g of the mean diagonal |\n", o->damping);
    } else {
        fputs("| damping | each layer's: `mq_report.json` |\n", f);
    }
    int64_t last = o->last_block < 0 ? n_blocks : o->last_block;
    if (o->first_block > 0 || last < n_blocks) {
        fprintf(f, "| blocks quantised | %" PRId64 " to %" PRId64 " |\n", o->first_block, last - 1);
    }
    if (o->lm_head) fputs("| lm_head | quantised too |\n", f);
    for (int i = 0; i < o->n_skip; i++) {
        fputs("| kept as they are | `", f);
        print_cell(f, o->skip[i]);
        fputs("` |\n", f);
    }
    for (int i = 0; i < o->n_override; i++) {
        const mq_override *v = &o->override_[i];
        fputs("| exception | `", f);
        print_cell(f, v->pattern);
        fputs("`:", f);
        if (v->bits) fprintf(f, " %d bits", v->bits);
        if (v->group) fprintf(f, " group size %" PRId64, v->group);
        fputs(" |\n", f);
    }
}

static void print_figures(FILE *f, const mq_report *report, const mq_arch *arch,
                          const mq_calib *calib)
{
    double mean = NAN, largest = NAN;
    const mq_layer_result *worst = NULL;
    char name[256] = "none";
    mq_report_summary(report, &mean, &largest, &worst);
    if (worst) mq_arch_linear_name(arch, worst->linear, worst->block, name, sizeof name);
    fputs("\n## Calibration\n\n| | |\n|---|---|\n| source | ", f);
    print_cell(f, calib->source);
    fprintf(f, " |\n| samples | %" PRId64 " |\n| tokens | %" PRId64 " |\n", calib->n_samples,
            calib->n_tokens);
    fprintf(
        f,
        "\n## Losses\n\n"
        "Relative loss of a layer: the squared error of its outputs over the calibration "
        "tokens, divided by the outputs' own sum of squares; where layers make up for the errors "
        "of earlier ones, of the outputs that they aim at.\n\n"
        "| | |\n|---|---|\n| layers quantised | %" PRId64 " |\n| mean relative loss | %.3g |\n"
        "| largest | %.3g (`%s`) |\n| rounded to nearest as a last resort | %" PRId64 " |\n\n"
        "Every layer is listed in `mq_report.json`.\n",
        report->n_layers, mean, largest, name, mq_report_fallbacks(report));
}

static void print_gptqmodel(FILE *f)
{
    fputs("```python\nfrom gptqmodel import GPTQModel\n"
          "model = GPTQModel.load(\"PATH\")\n```\n\n",
          f);
}

static void print_transformers(FILE *f)
{
    fputs("```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n"
          "model = AutoModelForCausalLM.from_pretrained(\"PATH\")\n"
          "tokenizer = AutoTokenizer.from_pretrained(\"PATH\")\n```\n\n",
          f);
}

static void print_exllamav2(FILE *f)
{
    fputs("```python\nfrom exllamav2 import ExLlamaV2, ExLlamaV2Config\n"
          "model = ExLlamaV2(ExLlamaV2Config(\"PATH\"))\nmodel.load()\n```\n\n",
          f);
}

static void print_llama_cpp(FILE *f)
{
    fputs("With llama.cpp, or anything that is made with it,\n\n"
          "```sh\nllama-cli -m PATH/model.gguf\n```\n\n",
          f);
}

static void print_use_of_gptq(FILE *f, bool needs_rules, bool packed_head)
{
    print_gptqmodel(f);
    if (needs_rules) {
        fputs("Not every layer is packed alike: the rules for that are in `dynamic`, which "
              "GPTQModel and vLLM read and transformers does not.\n\n",
              f);
    } else if (packed_head) {
        fputs(
            "lm_head is packed, which GPTQModel reads; transformers does not, and makes up a head "
            "without an error.\n\n",
            f);
    } else {
        fputs("or, with `gptqmodel` and `optimum` installed beside it,\n\n", f);
        print_transformers(f);
    }
}

static void print_use(FILE *f, const mq_quantize_options *o, bool needs_rules)
{
    const char *tag = form_of(o)->tag;
    fputs("\n## How to load it\n\n", f);
    if (tag && strcmp(tag, "gptq") == 0) {
        print_use_of_gptq(f, needs_rules, o->lm_head);
    } else if (tag && strcmp(tag, "exl2") == 0) {
        print_exllamav2(f);
    } else if (is_gguf(o)) {
        print_llama_cpp(f);
    } else {
        if (tag) fputs("With `compressed-tensors` installed beside transformers,\n\n", f);
        print_transformers(f);
    }
    fputs("The licence is that of the source model.\n", f);
}

mq_status mq_report_card(const mq_report *report, const mq_arch *arch,
                         const mq_quantize_options *options, const mq_calib *calib,
                         bool needs_rules, char **out)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *f = open_memstream(&text, &bytes);
    if (!f) return mq_fail(MQ_E_MEMORY, "no memory for the model card");
    print_front(f, options);
    print_settings(f, options, arch->n_blocks);
    print_figures(f, report, arch, calib);
    print_use(f, options, needs_rules);
    bool good = !ferror(f);
    if (fclose(f) != 0 || !good) {
        free(text);
        return mq_fail(MQ_E_MEMORY, "no memory for the model card");
    }
    mq_status status = mq_alloc((int64_t)bytes + 1, 1, "model card", out);
    if (status == MQ_OK) memcpy(*out, text, bytes + 1);
    free(text);
    return status;
}
