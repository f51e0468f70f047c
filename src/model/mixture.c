#include "model/mixture.h"

#include "base/checked.h"
#include "base/memory.h"
#include "ops/gemm.h"

#include <string.h>

/* ---- routes --------------------------------------------------------------------------------- */

mq_status mq_routes_create(const mq_arch *arch, int64_t n_tokens, mq_routes *out)
{
    int64_t rows = 0;
    *out = (mq_routes){.begin = NULL};
    MQ_TRY(mq_mul_i64(n_tokens, arch->moe.routing.top_k, &rows));
    MQ_TRY(mq_alloc(arch->moe.routing.n_experts + 1, sizeof *out->begin, "routes", &out->begin));
    MQ_TRY(mq_alloc(rows, sizeof *out->token, "routes", &out->token));
    return mq_alloc(rows, sizeof *out->weight, "routes", &out->weight);
}

void mq_routes_free(mq_routes *routes)
{
    mq_free(&routes->begin);
    mq_free(&routes->token);
    mq_free(&routes->weight);
}

static mq_status route(const mq_block_weights *w, const void *y, int64_t n_tokens,
                       const uint8_t *skipped, float *logits, int32_t *expert, float *weight,
                       mq_routes *routes)
{
    const mq_routing_kind *kind = &w->arch->moe.routing;
    MQ_TRY(mq_router_logits(y, w->dtype, n_tokens, w->arch->hidden, w->router, w->router_bias,
                            kind->n_experts, logits));
    MQ_TRY(mq_route(kind, logits, w->correction, n_tokens, expert, weight));
    mq_route_sort(kind, expert, weight, n_tokens, skipped, routes->begin, routes->token,
                  routes->weight);
    return MQ_OK;
}

mq_status mq_mixture_route(const mq_block_weights *w, const void *y, int64_t n_tokens,
                           const uint8_t *skipped, mq_routes *routes)
{
    const mq_routing_kind *kind = &w->arch->moe.routing;
    float *logits = NULL, *weight = NULL;
    int32_t *expert = NULL;
    int64_t rows = n_tokens * kind->top_k;
    mq_status status = mq_alloc(n_tokens, (size_t)kind->n_experts * sizeof *logits,
                                "outputs of a router", &logits);
    if (status == MQ_OK) status = mq_alloc(rows, sizeof *expert, "routes", &expert);
    if (status == MQ_OK) status = mq_alloc(rows, sizeof *weight, "routes", &weight);
    if (status == MQ_OK) {
        status = route(w, y, n_tokens, skipped, logits, expert, weight, routes);
    }
    mq_free(&logits);
    mq_free(&expert);
    mq_free(&weight);
    return status;
}

mq_status mq_expert_gather(const mq_block_weights *w, const mq_routes *routes, int64_t first,
                           int64_t n, const void *y, void *out)
{
    const mq_arch *a = w->arch;
    MQ_TRY(mq_gather_rows(y, a->hidden, w->dtype, routes->token + first, n, out));
    if (!a->moe.routing.scales_inputs) return MQ_OK;
    return mq_scale_rows(out, a->hidden, w->dtype, routes->weight + first, n);
}

const float *mq_expert_weights(const mq_arch *arch, const mq_routes *routes, int64_t first)
{
    return arch->moe.routing.scales_inputs ? NULL : routes->weight + first;
}

/* ---- one expert ----------------------------------------------------------------------------- */

mq_status mq_expert_mid(const mq_block_weights *w, int64_t expert, const void *in, int64_t n,
                        void *work, void *mid)
{
    const mq_arch *a = w->arch;
    int64_t width = a->moe.intermediate;
    char *up = (char *)work + (size_t)width * mq_dtype_size(w->dtype);
    mq_linear_id gate = mq_expert_linear(expert, MQ_GATE), other = mq_expert_linear(expert, MQ_UP);
    MQ_TRY(mq_linear(in, n, a->hidden, w->w[gate], width, mq_block_bias(w, gate), work, 2 * width,
                     w->dtype));
    MQ_TRY(mq_linear(in, n, a->hidden, w->w[other], width, mq_block_bias(w, other), up, 2 * width,
                     w->dtype));
    return mq_gated(a->activation, work, 2 * width, up, 2 * width, n, width, mid, w->dtype);
}

mq_status mq_expert_out(const mq_block_weights *w, int64_t expert, const void *mid, int64_t n,
                        void *out)
{
    const mq_arch *a = w->arch;
    mq_linear_id down = mq_expert_linear(expert, MQ_DOWN);
    return mq_linear(mid, n, a->moe.intermediate, w->w[down], a->hidden, mq_block_bias(w, down),
                     out, a->hidden, w->dtype);
}

/* ---- all of them ---------------------------------------------------------------------------- */

mq_status mq_expert_room_create(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens,
                                mq_expert_room *out)
{
    int64_t hidden = 0, width = 0;
    size_t size = mq_dtype_size(dtype);
    *out = (mq_expert_room){.in = NULL};
    if (arch->moe.routing.n_experts == 0) return MQ_OK;
    MQ_TRY(mq_mul_i64(n_tokens, arch->hidden, &hidden));
    MQ_TRY(mq_mul_i64(n_tokens, arch->moe.intermediate, &width));
    MQ_TRY(mq_alloc(hidden, size, "rows of an expert", &out->in));
    MQ_TRY(mq_alloc(width, 2 * size, "rows of an expert", &out->work));
    MQ_TRY(mq_alloc(width, size, "rows of an expert", &out->mid));
    return mq_alloc(hidden, size, "rows of an expert", &out->out);
}

void mq_expert_room_free(mq_expert_room *room)
{
    mq_free(&room->in);
    mq_free(&room->work);
    mq_free(&room->mid);
    mq_free(&room->out);
}

mq_status mq_mixture_room_create(const mq_arch *arch, mq_dtype dtype, int64_t n_tokens,
                                 mq_mixture_room *out)
{
    int64_t values = 0;
    *out = (mq_mixture_room){.sum = NULL};
    if (arch->moe.routing.n_experts == 0) return MQ_OK;
    MQ_TRY(mq_mul_i64(n_tokens, arch->hidden, &values));
    MQ_TRY(mq_routes_create(arch, n_tokens, &out->routes));
    MQ_TRY(mq_expert_room_create(arch, dtype, n_tokens, &out->expert));
    return mq_alloc(values, sizeof *out->sum, "sum of experts", &out->sum);
}

void mq_mixture_room_free(mq_mixture_room *room)
{
    mq_routes_free(&room->routes);
    mq_expert_room_free(&room->expert);
    mq_free(&room->sum);
}

static mq_status add_expert(const mq_block_weights *w, int64_t expert, const void *y,
                            mq_mixture_room *room)
{
    int64_t begin = room->routes.begin[expert], n = room->routes.begin[expert + 1] - begin;
    const mq_expert_room *rows = &room->expert;
    if (n == 0) return MQ_OK;
    MQ_TRY(mq_expert_gather(w, &room->routes, begin, n, y, rows->in));
    MQ_TRY(mq_expert_mid(w, expert, rows->in, n, rows->work, rows->mid));
    MQ_TRY(mq_expert_out(w, expert, rows->mid, n, rows->out));
    return mq_scatter_add(rows->out, w->arch->hidden, w->dtype, room->routes.token + begin,
                          mq_expert_weights(w->arch, &room->routes, begin), n, room->sum);
}

mq_status mq_mixture(const mq_block_weights *w, const mq_unit *unit, const void *y,
                     mq_mixture_room *room, void *x)
{
    const mq_arch *a = w->arch;
    MQ_TRY(mq_mixture_route(w, y, unit->n_tokens, NULL, &room->routes));
    memset(room->sum, 0, (size_t)(unit->n_tokens * a->hidden) * sizeof *room->sum);
    for (int64_t e = 0; e < a->moe.routing.n_experts; e++) MQ_TRY(add_expert(w, e, y, room));
    return mq_add_sum(room->sum, a->residual_scale, unit->n_tokens, a->hidden, x, w->dtype);
}
