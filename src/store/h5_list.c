#include "base/memory.h"
#include "base/utf8.h"
#include "store/h5_private.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What is in the root group of an HDF5 file. */

_Static_assert(H5S_MAX_RANK <= MQ_H5_MAX_DIMS, "more dimensions than an entry holds");

enum { TYPE_BYTES = 32 };

/* One listing, and why it ended. */
typedef struct listing {
    mq_h5 *h;
    mq_h5_visit visit;
    void *context;
    mq_status status;
} listing;

/* ---- words ----------------------------------------------------------------------------------- */

static mq_status printable_copy(const char *text, char **out)
{
    size_t bytes = strlen(text) + 1;
    MQ_TRY(mq_alloc((int64_t)bytes, 1, "name in an HDF5 file", out));
    memcpy(*out, text, bytes);
    mq_make_printable(*out);
    return MQ_OK;
}

static const char *describe_type(hid_t type, char text[TYPE_BYTES])
{
    static const char *const others[H5T_NCLASSES] = {
        [H5T_TIME] = "time",        [H5T_STRING] = "string",     [H5T_BITFIELD] = "bitfield",
        [H5T_OPAQUE] = "opaque",    [H5T_COMPOUND] = "compound", [H5T_REFERENCE] = "reference",
        [H5T_ENUM] = "enumeration", [H5T_VLEN] = "sequence",     [H5T_ARRAY] = "array",
    };
    H5T_class_t class = H5Tget_class(type);
    size_t bits = 8 * H5Tget_size(type);
    if (class == H5T_INTEGER) {
        bool sign = H5Tget_sign(type) != H5T_SGN_NONE;
        snprintf(text, TYPE_BYTES, "%sint%zu", sign ? "" : "u", bits);
        return text;
    }
    if (class == H5T_FLOAT) {
        snprintf(text, TYPE_BYTES, "float%zu", bits);
        return text;
    }
    return class >= 0 && class < H5T_NCLASSES ? others[class] : "unknown";
}

static mq_status describe_shape(const mq_h5 *h, hid_t space, mq_h5_entry *e)
{
    hsize_t dim[H5S_MAX_RANK];
    H5S_class_t class = H5Sget_simple_extent_type(space);
    e->n_dims = class == H5S_SIMPLE || class == H5S_SCALAR
                    ? H5Sget_simple_extent_dims(space, dim, NULL)
                    : -1;
    for (int d = 0; d < e->n_dims; d++) {
        if (dim[d] > INT64_MAX) {
            return mq_fail(MQ_E_INPUT, "%s: \"%s\" has a dimension past 2^63 - 1", h->path,
                           e->name);
        }
        e->dim[d] = (int64_t)dim[d];
    }
    return MQ_OK;
}

/* ---- attributes ------------------------------------------------------------------------------ */

/* The value of an attribute, called `name` in the file; *text is what e->text points to. */
static mq_status read_value(mq_h5 *h, const char *name, hid_t id, hid_t type, mq_h5_entry *e,
                            char **text)
{
    H5T_class_t class = H5Tget_class(type);
    if (class == H5T_INTEGER && H5Tget_size(type) <= sizeof e->integer) {
        e->kind = MQ_H5_INTEGER;
        return mq_h5_attribute_int(h, name, &e->integer);
    }
    if (class == H5T_FLOAT) {
        e->kind = MQ_H5_REAL;
        if (H5Aread(id, H5T_NATIVE_DOUBLE, &e->real) >= 0) return MQ_OK;
        return mq_fail(MQ_E_INPUT, "%s: cannot read the attribute \"%s\"", h->path, e->name);
    }
    if (class != H5T_STRING) return MQ_OK;
    MQ_TRY(mq_h5_attribute_text(h, name, text));
    e->kind = MQ_H5_TEXT;
    e->text = *text;
    return MQ_OK;
}

static mq_status visit_open_attribute(const listing *l, const char *name, hid_t id, hid_t type,
                                      hid_t space, mq_h5_entry *e)
{
    char words[TYPE_BYTES], *text = NULL;
    if (type < 0 || space < 0) {
        return mq_fail(MQ_E_INPUT, "%s: cannot read the attribute \"%s\"", l->h->path, e->name);
    }
    e->type = describe_type(type, words);
    MQ_TRY(describe_shape(l->h, space, e));
    bool single = H5Sget_simple_extent_npoints(space) == 1;
    mq_status status = single ? read_value(l->h, name, id, type, e, &text) : MQ_OK;
    if (status == MQ_OK) status = l->visit(l->context, e);
    mq_free(&text);
    return status;
}

static mq_status visit_attribute(const listing *l, const char *name, const char *shown)
{
    mq_h5_entry e = {.name = shown};
    hid_t id = H5Aopen(l->h->file, name, H5P_DEFAULT);
    hid_t type = id < 0 ? H5I_INVALID_HID : H5Aget_type(id);
    hid_t space = id < 0 ? H5I_INVALID_HID : H5Aget_space(id);
    mq_status status = visit_open_attribute(l, name, id, type, space, &e);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (id >= 0) H5Aclose(id);
    return status;
}

static herr_t on_attribute(hid_t group, const char *name, const H5A_info_t *info, void *context)
{
    listing *l = context;
    char *shown = NULL;
    (void)group;
    (void)info;
    l->status = printable_copy(name, &shown);
    if (l->status == MQ_OK) l->status = visit_attribute(l, name, shown);
    mq_free(&shown);
    return l->status == MQ_OK ? 0 : -1;
}

static mq_status unreadable(const listing *l)
{
    if (l->status != MQ_OK) return l->status;
    return mq_fail(MQ_E_INPUT, "%s: cannot list what it holds: damaged", l->h->path);
}

mq_status mq_h5_list_attributes(mq_h5 *file, mq_h5_visit visit, void *context)
{
    listing l = {file, visit, context, MQ_OK};
    herr_t code = H5Aiterate2(file->file, H5_INDEX_NAME, H5_ITER_INC, NULL, on_attribute, &l);
    return code < 0 ? unreadable(&l) : MQ_OK;
}

/* ---- members --------------------------------------------------------------------------------- */

static mq_status visit_dataset(const listing *l, hid_t id, mq_h5_entry *e)
{
    char words[TYPE_BYTES];
    hid_t type = H5Dget_type(id), space = H5Dget_space(id);
    mq_status status = MQ_OK;
    if (type < 0 || space < 0) {
        status = mq_fail(MQ_E_INPUT, "%s: \"%s\" is damaged", l->h->path, e->name);
    } else {
        e->type = describe_type(type, words);
        status = describe_shape(l->h, space, e);
    }
    if (status == MQ_OK) status = l->visit(l->context, e);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return status;
}

static mq_status visit_member(const listing *l, const char *name, bool link, const char *shown)
{
    mq_h5_entry e = {.name = shown, .type = "link", .n_dims = -1};
    if (link) return l->visit(l->context, &e);
    hid_t id = H5Oopen(l->h->file, name, H5P_DEFAULT);
    if (id < 0) return mq_fail(MQ_E_INPUT, "%s: cannot open \"%s\": damaged", l->h->path, shown);
    mq_status status = MQ_OK;
    if (H5Iget_type(id) == H5I_DATASET) {
        status = visit_dataset(l, id, &e);
    } else {
        e.type = H5Iget_type(id) == H5I_GROUP ? "group" : "named type";
        status = l->visit(l->context, &e);
    }
    H5Oclose(id);
    return status;
}

static herr_t on_member(hid_t group, const char *name, const H5L_info_t *info, void *context)
{
    listing *l = context;
    char *shown = NULL;
    (void)group;
    l->status = printable_copy(name, &shown);
    if (l->status == MQ_OK) l->status = visit_member(l, name, info->type != H5L_TYPE_HARD, shown);
    mq_free(&shown);
    return l->status == MQ_OK ? 0 : -1;
}

mq_status mq_h5_list_members(mq_h5 *file, mq_h5_visit visit, void *context)
{
    listing l = {file, visit, context, MQ_OK};
    herr_t code = H5Literate(file->file, H5_INDEX_NAME, H5_ITER_INC, NULL, on_member, &l);
    return code < 0 ? unreadable(&l) : MQ_OK;
}
