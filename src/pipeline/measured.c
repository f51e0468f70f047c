/* The table of measured losses: its memory, and how the report shows it. */
#include "base/memory.h"
#include "pipeline/measure.h"
#include "plan/mix.h"

void mq_measured_destroy(mq_measured **m)
{
    if (*m) {
        mq_free(&(*m)->loss);
        mq_free(&(*m)->harm);
        mq_free(&(*m)->added);
    }
    mq_free(m);
}

mq_status mq_measured_create(const mq_scheme *scheme, mq_measured **out)
{
    int64_t n = scheme->arch->n_blocks * mq_arch_n_linears(scheme->arch);
    mq_status status = mq_alloc(1, sizeof **out, "measured losses", out);
    if (status == MQ_OK) {
        mq_measured *m = *out;
        m->scheme = scheme;
        status = mq_alloc(n * MQ_MAX_WIDTHS, sizeof *m->loss, "measured losses", &m->loss);
        if (status == MQ_OK) {
            status = mq_alloc(n * MQ_MAX_WIDTHS, sizeof *m->harm, "measured losses", &m->harm);
        }
        if (status == MQ_OK) status = mq_alloc(n, sizeof *m->added, "measured losses", &m->added);
    }
    return status;
}

double mq_measured_added(const mq_measured *m, int64_t block, mq_linear_id linear)
{
    int64_t expert = mq_linear_expert(linear);
    mq_linear_id writer = linear <= MQ_O ? MQ_O : MQ_DOWN;
    if (expert >= 0) writer = mq_expert_linear(expert, MQ_DOWN);
    return m->added[mq_measured_layer(m, block, writer)];
}

static mq_status add_layer(cJSON *list, const mq_measured *m, int64_t block, mq_linear_id linear)
{
    char name[256];
    int64_t n_out = 0, n_in = 0, i = mq_measured_layer(m, block, linear) * MQ_MAX_WIDTHS;
    cJSON *o = cJSON_CreateObject();
    if (!o || !cJSON_AddItemToArray(list, o)) return mq_fail(MQ_E_MEMORY, "no memory");
    mq_arch_linear_name(m->scheme->arch, linear, block, name, sizeof name);
    mq_arch_linear_shape(m->scheme->arch, block, linear, &n_out, &n_in);
    MQ_TRY(mq_json_add_string(o, "name", name));
    MQ_TRY(mq_json_add_int(o, "weights", n_out * n_in));
    MQ_TRY(mq_json_add_int(o, "bits", mq_scheme_layer(m->scheme, block, linear)->quant.bits));
    MQ_TRY(mq_json_add_double(o, "added", mq_measured_added(m, block, linear)));
    MQ_TRY(mq_json_add_doubles(o, "relative_loss", &m->loss[i], m->scheme->n_widths));
    return mq_json_add_doubles(o, "harm", &m->harm[i], m->scheme->n_widths);
}

static mq_status fill(cJSON *o, const mq_measured *m)
{
    const mq_scheme *s = m->scheme;
    int64_t width[MQ_MAX_WIDTHS];
    for (int j = 0; j < s->n_widths; j++) width[j] = s->width[j];
    MQ_TRY(mq_json_add_double(o, "asked_bits", s->average_bits));
    MQ_TRY(mq_json_add_double(o, "average_bits", mq_mix_average(s)));
    MQ_TRY(mq_json_add_ints(o, "widths", width, s->n_widths));
    cJSON *list = cJSON_AddArrayToObject(o, "layers");
    if (!list) return mq_fail(MQ_E_MEMORY, "no memory for the report");
    for (int64_t b = 0; b < s->arch->n_blocks; b++) {
        for (int l = 0; l < mq_arch_n_linears(s->arch); l++) {
            if (!mq_mix_is_free(s, b, (mq_linear_id)l)) continue;
            MQ_TRY(add_layer(list, m, b, (mq_linear_id)l));
        }
    }
    return MQ_OK;
}

mq_status mq_measured_json(const mq_measured *measured, cJSON **out)
{
    *out = cJSON_CreateObject();
    mq_status status = *out ? fill(*out, measured) : mq_fail(MQ_E_MEMORY, "no memory");
    if (status != MQ_OK) {
        cJSON_Delete(*out);
        *out = NULL;
    }
    return status;
}
