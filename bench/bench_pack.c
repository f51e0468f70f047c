#include "bench.h"

#include "base/checked.h"
#include "base/memory.h"
#include "format/format.h"

#include <time.h>

/* How fast one core packs a layer, by format and bits, in GB of BF16 source weights per second: all
 * tensors of a layer of 4096 x 4096 in groups of 128, in the steps in which the run packs them.
 *
 *     bench_pack [RUNS] */

enum { N_OUT = 4096, N_IN = 4096, GROUP = 128, GROUPS = N_IN / GROUP };

static uint8_t *codes, *zeros;
static float *scales, largest[GROUPS];
static char *packed; /* as large as the source in F32 */

static mq_status make_layer(void)
{
    uint32_t state = 1;
    MQ_TRY(mq_alloc((int64_t)N_OUT * N_IN, 1, "codes", &codes));
    MQ_TRY(mq_alloc((int64_t)N_OUT * GROUPS, 1, "zero points", &zeros));
    MQ_TRY(mq_alloc((int64_t)N_OUT * GROUPS, sizeof *scales, "scales", &scales));
    MQ_TRY(mq_alloc((int64_t)N_OUT * N_IN, sizeof(float), "packed layer", &packed));
    for (int g = 0; g < GROUPS; g++) largest[g] = 0x1p-10f;
    for (int64_t i = 0; i < (int64_t)N_OUT * GROUPS; i++) {
        state = state * 1664525u + 1013904223u;
        scales[i] = mq_f16_to_f32(mq_f32_to_f16((float)(state >> 8) * 0x1p-34f + 0x1p-12f));
        zeros[i] = (uint8_t)(state >> 30);
    }
    return MQ_OK;
}

static void fill_codes(int bits)
{
    uint32_t state = 7;
    for (int64_t i = 0; i < (int64_t)N_OUT * N_IN; i++) {
        state = state * 1664525u + 1013904223u;
        codes[i] = (uint8_t)(state >> (32 - bits));
    }
}

static mq_status pack_layer(const mq_format *format, const mq_layer_codes *layer)
{
    mq_part part[MQ_MAX_PARTS];
    int n = format->parts(&layer->shape, part);
    for (int p = 0; p < n; p++) {
        int64_t columns = part[p].n_dims > 1 ? part[p].dim[1] : 1;
        for (int64_t r = 0; r < part[p].dim[0]; r += part[p].step) {
            int64_t end = mq_min_i64(r + part[p].step, part[p].dim[0]);
            char *to = packed + (size_t)(r * columns) * mq_dtype_size(part[p].dtype);
            MQ_TRY(format->pack(layer, p, r, end, to));
        }
    }
    return MQ_OK;
}

static mq_status measure(const mq_format *format, int bits, bool zero_points, int runs)
{
    series s = {0};
    char name[80], why[80];
    mq_layer_codes layer = {.shape = {.n_out = N_OUT,
                                      .n_in = N_IN,
                                      .group = GROUP,
                                      .bits = bits,
                                      .zero_points = zero_points,
                                      .dtype = MQ_BF16},
                            .codes = codes,
                            .scales = scales,
                            .zeros = zero_points ? zeros : NULL,
                            .largest = largest};
    if (format->refuses && format->refuses(&layer.shape, why, sizeof why)) return MQ_OK;
    for (int i = 0; i < runs; i++) {
        clock_t start = clock();
        MQ_TRY(pack_layer(format, &layer));
        series_add(&s, (double)(clock() - start) / CLOCKS_PER_SEC);
    }
    snprintf(name, sizeof name, "%s, %d bits%s", format->name, bits,
             zero_points ? ", zero points" : "");
    series_print(name, &s, 2e-9 * N_OUT * N_IN, "GB/s of source");
    return MQ_OK;
}

static mq_status measure_all(int runs)
{
    static const int widths[] = {2, 3, 4, 8};
    for (int w = 0; w < 4; w++) {
        fill_codes(widths[w]);
        for (int f = 0; mq_formats[f]; f++) {
            /* v1 has no zero points. */
            MQ_TRY(measure(mq_formats[f], widths[w], false, runs));
            if (mq_formats[f] == &mq_format_gptq) continue;
            MQ_TRY(measure(mq_formats[f], widths[w], true, runs));
        }
    }
    return MQ_OK;
}

int main(int argc, char **argv)
{
    mq_status status = make_layer();
    if (status == MQ_OK) status = measure_all(argc > 1 ? atoi(argv[1]) : 9);
    if (status != MQ_OK) fprintf(stderr, "bench_pack: %s\n", mq_message());
    mq_free(&codes);
    mq_free(&zeros);
    mq_free(&scales);
    mq_free(&packed);
    return mq_exit_code(status);
}
