#include "base/checked.h"
#include "base/file.h"
#include "base/memory.h"
#include "store/writer_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- slots ----------------------------------------------------------------------------------- */

static mq_status tensor_bytes(const mq_out_tensor *t, uint64_t *bytes)
{
    int64_t count = 0, bits = 0;
    if (t->n_dims < 0 || t->n_dims > MQ_MAX_DIMS) {
        return mq_fail(MQ_E_INPUT, "tensor \"%.200s\": %d dimensions", t->name, t->n_dims);
    }
    mq_status status = mq_count(t->dim, t->n_dims, &count);
    if (status == MQ_OK) status = mq_mul_i64(count, mq_dtype_bits(t->dtype), &bits);
    if (status != MQ_OK) return mq_fail_in(status, "tensor \"%.200s\"", t->name);
    if (bits % 8 != 0) {
        return mq_fail(MQ_E_INPUT, "tensor \"%.200s\": %" PRId64 " values of %s do not fill bytes",
                       t->name, count, mq_dtype_name(t->dtype));
    }
    *bytes = (uint64_t)bits / 8;
    return MQ_OK;
}

static const char *copy_name(char **at, const char *name)
{
    size_t length = strlen(name) + 1;
    char *copy = memcpy(*at, name, length);
    *at += length;
    return copy;
}

static mq_status copy_names(mq_writer *w, const mq_out_tensor *tensors, int64_t n)
{
    size_t bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        bytes += strlen(tensors[i].name) + 1;
        if (w->stored) bytes += strlen(w->stored[i]) + 1;
    }
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "names of the output", &w->names));
    char *at = w->names;
    for (int64_t i = 0; i < n; i++) {
        mq_slot *s = &w->slot[i];
        s->name = copy_name(&at, tensors[i].name);
        s->stored = w->stored ? copy_name(&at, w->stored[i]) : s->name;
    }
    return MQ_OK;
}

/* Slots in the order given, each with its bytes and its shard. */
static mq_status fill_slots(mq_writer *w, const mq_out_tensor *tensors, int64_t n,
                            uint64_t max_shard_bytes)
{
    uint64_t in_shard = 0;
    int64_t members = 0, shards = 0;
    int last = 0;
    MQ_TRY(mq_alloc(n, sizeof *w->slot, "output layout", &w->slot));
    MQ_TRY(copy_names(w, tensors, n));
    w->n_slots = n;
    for (int64_t i = 0; i < n; i++) {
        mq_slot *s = &w->slot[i];
        MQ_TRY(tensor_bytes(&tensors[i], &s->bytes));
        s->place = w->container->widest_first ? -mq_dtype_bits(tensors[i].dtype) : i;
        s->dtype = tensors[i].dtype;
        s->n_dims = tensors[i].n_dims;
        memcpy(s->dim, tensors[i].dim, sizeof s->dim);
        if (w->total_bytes > INT64_MAX - s->bytes) {
            return mq_fail(MQ_E_INPUT, "the output is larger than 2^63 bytes");
        }
        w->total_bytes += s->bytes;
        /* An oversize tensor is alone: what comes before it and after it does not fit beside it. */
        bool full = s->bytes > max_shard_bytes || in_shard > max_shard_bytes - s->bytes;
        if (members > 0 && full) {
            shards++;
            in_shard = 0;
            members = 0;
        }
        MQ_TRY(mq_to_int(shards, "number of shards", &last));
        s->shard = last;
        in_shard += s->bytes;
        members++;
    }
    w->n_shards = last + 1;
    return MQ_OK;
}

static int compare_layout(const void *a, const void *b)
{
    const mq_slot *x = a, *y = b;
    if (x->shard != y->shard) return x->shard < y->shard ? -1 : 1;
    if (x->place != y->place) return x->place < y->place ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int compare_slot_names(const void *a, const void *b)
{
    return strcmp((*(const mq_slot *const *)a)->name, (*(const mq_slot *const *)b)->name);
}

static mq_status index_names(mq_writer *w)
{
    MQ_TRY(mq_alloc(w->n_slots, sizeof *w->by_name, "names of the output", (void *)&w->by_name));
    for (int64_t i = 0; i < w->n_slots; i++) w->by_name[i] = &w->slot[i];
    qsort(w->by_name, (size_t)w->n_slots, sizeof *w->by_name, compare_slot_names);
    for (int64_t i = 0; i + 1 < w->n_slots; i++) {
        if (strcmp(w->by_name[i]->name, w->by_name[i + 1]->name) == 0) {
            return mq_fail(MQ_E_INPUT, "the output has two tensors named \"%.200s\"",
                           w->by_name[i]->name);
        }
    }
    return MQ_OK;
}

/* ---- shards ---------------------------------------------------------------------------------- */

static mq_status name_shard(const mq_writer *w, int32_t number, mq_shard *shard)
{
    char part[48];
    if (w->n_shards == 1) {
        snprintf(shard->name, sizeof shard->name, "model.%s", w->container->extension);
    } else {
        snprintf(shard->name, sizeof shard->name, "model-%05d-of-%05d.%s", number + 1, w->n_shards,
                 w->container->extension);
    }
    snprintf(part, sizeof part, "%s.part", shard->name);
    MQ_TRY(mq_path_join(w->folder, shard->name, &shard->path));
    return mq_path_join(w->folder, part, &shard->part);
}

/* Offsets of the slots of every shard, whose slots follow each other now. */
static void place_slots(mq_writer *w)
{
    uint64_t alignment = w->container->alignment;
    for (int64_t i = 0; i < w->n_slots; i++) {
        mq_shard *shard = &w->shard[w->slot[i].shard];
        if (shard->n == 0) shard->first = i;
        shard->n++;
        w->slot[i].begin = shard->data_bytes;
        shard->data_bytes += (w->slot[i].bytes + alignment - 1) / alignment * alignment;
    }
}

mq_status mq_writer_lay_out(mq_writer *w, const mq_out_tensor *tensors, int64_t n,
                            uint64_t max_shard_bytes)
{
    MQ_TRY(fill_slots(w, tensors, n, max_shard_bytes));
    qsort(w->slot, (size_t)n, sizeof *w->slot, compare_layout);
    MQ_TRY(index_names(w));
    MQ_TRY(mq_alloc(n, sizeof *w->checksum, "checksums", &w->checksum));
    MQ_TRY(mq_alloc(w->n_shards, sizeof *w->shard, "shards", &w->shard));
    for (int32_t s = 0; s < w->n_shards; s++) {
        w->shard[s].fd = -1;
        w->shard[s].file = MPI_FILE_NULL;
    }
    place_slots(w);
    for (int32_t s = 0; s < w->n_shards; s++) {
        mq_shard *shard = &w->shard[s];
        size_t length = 0;
        MQ_TRY(name_shard(w, s, shard));
        MQ_TRY(w->container->header(w, shard, &shard->header, &length));
        shard->data_start = length;
    }
    return MQ_OK;
}
