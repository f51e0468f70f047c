#ifndef MQ_MODEL_ARCH_PARSE_H
#define MQ_MODEL_ARCH_PARSE_H

#include "model/arch.h"
#include "model/findings.h"

/* From texts to an arch, without files and ranks. Private to src/model; tests use it too.
 *
 * A *spec* is what a descriptor says about one property. A plain JSON value is a constant. An
 * object maps a key of config.json:
 *     {"key": K, "or": K2, "default": D, "null": N, "map": {...}, "divide": I}
 * K absent: K2 where there is one. Both absent: D, or an error where there is no D. K there but
 * null: N, or as if absent where there is no N. "map" turns the value's text ("true", "false", or a
 * string) into another, or into true or false. An integer of config.json is divided by I. An
 * integer D or N may name another size, or a quotient of two: "n_heads", "hidden / n_heads". */

typedef struct mq_arch_texts {
    const cJSON *root;       /* config.json */
    const cJSON *config;     /* the language model's settings: an object in it, or all of it */
    const cJSON *descriptor; /* configs/arch/NAME.json */
    const cJSON *common;     /* configs/arch/common.json */
    const char *where;       /* path of config.json, for messages */
    char family[64];         /* of the descriptor, for messages */
    mq_findings *findings;   /* where what is wrong goes; NULL: the first of it ends the reading */
} mq_arch_texts;

/** Fills `arch` from the three texts. Not collective. Errors: MQ_E_INPUT as for mq_arch_load;
 *  also a descriptor that lacks a member or has one that means nothing. */
mq_status mq_arch_parse(const char *config, const char *where, const char *descriptor,
                        const char *common, mq_arch *arch);

/** The same, and goes on where something is wrong, so that `findings` gets all of it. What depends
 *  on what could not be read is not read. Errors: MQ_E_INPUT for texts that are not JSON objects;
 *  MQ_E_MEMORY. */
mq_status mq_arch_examine(const char *config, const char *where, const char *descriptor,
                          const char *common, mq_findings *findings, mq_arch *arch);

/** Adds what was read to a JSON object, under the names of a descriptor's "config", and what
 *  follows from its other sections. Errors: MQ_E_MEMORY. */
mq_status mq_arch_describe(const mq_arch *arch, cJSON *out);

/* The value that a spec stands for. `json` is NULL when it is absent and has no default. */
typedef struct mq_spec_value {
    const cJSON *json;
    const char *name; /* of the key, or of the field for a constant: for messages */
    bool from_config; /* else from the descriptor */
} mq_spec_value;

/** Evaluates descriptor[section][field]. Errors: MQ_E_INPUT when the descriptor has no such spec.
 */
mq_status mq_spec_find(const mq_arch_texts *texts, const char *section, const char *field,
                       mq_spec_value *out);

/** The same with the value's type checked. Errors: MQ_E_INPUT naming the file and the key. `arch`
 *  gives the sizes that a default may name. */
mq_status mq_spec_int(const mq_arch_texts *texts, const char *section, const char *field,
                      const mq_arch *arch, int64_t *out);
mq_status mq_spec_double(const mq_arch_texts *texts, const char *section, const char *field,
                         double *out);
mq_status mq_spec_bool(const mq_arch_texts *texts, const char *section, const char *field,
                       bool *out);

typedef struct mq_choice {
    const char *name;
    int value;
} mq_choice;

/** One of a list of names that ends with a NULL name; the message lists them. */
mq_status mq_spec_choice(const mq_arch_texts *texts, const char *section, const char *field,
                         const mq_choice *choices, int *out);

/** Finds the language model's settings in texts->root. Errors: MQ_E_INPUT when they are missing or
 *  of a model that the family is not known with. */
mq_status mq_arch_find_language(mq_arch_texts *texts);

/** The value of a key of the language model's settings, NULL when it has none. Of root keys that of
 *  config.json's top level comes first, unless it is off there. */
const cJSON *mq_arch_key(const mq_arch_texts *texts, const char *key);

/** Keys that are read from config.json's top level; and those of it that hold another part's
 *  settings, or the language model's. */
bool mq_arch_is_root_key(const mq_arch_texts *texts, const char *key);
bool mq_arch_is_other_config(const mq_arch_texts *texts, const char *key);

/** Whether there are towers beside the language model, and what they hand to it. */
void mq_arch_parse_towers(const mq_arch_texts *texts, mq_arch *arch);

/** Rope: theta, scaling and its parameters, in both styles of config.json. */
mq_status mq_arch_parse_rope(const mq_arch_texts *texts, mq_arch *arch);

/** Rope by several positions: how pairs are dealt to them, once out->dim is known. */
mq_status mq_arch_parse_axes(const mq_arch_texts *texts, const cJSON *rope, mq_rope_kind *out);

/** Whether a key of rope's object speaks of that; and the type that one of rope's types is but for
 *  it (NULL for NULL). */
bool mq_arch_is_axes_key(const mq_arch_texts *texts, const char *key);
const char *mq_arch_axes_type(const mq_arch_texts *texts, const char *type);

/** Blocks without rope, by a list or each so-manieth. */
mq_status mq_arch_parse_no_rope(const mq_arch_texts *texts, mq_arch *arch);

/** Sliding window, and the blocks that have it; may depend on the blocks without rope. */
mq_status mq_arch_parse_window(const mq_arch_texts *texts, mq_arch *arch);

/** Families whose blocks of full attention have no rope: after the window. */
mq_status mq_arch_settle_no_rope(const mq_arch_texts *texts, mq_arch *arch);

/** Chunked attention, and the blocks that have it; may depend on the blocks without rope. */
mq_status mq_arch_parse_chunk(const mq_arch_texts *texts, mq_arch *arch);

/** Factors of the scores by position. */
mq_status mq_arch_parse_query_scale(const mq_arch_texts *texts, mq_arch *arch);

/** Sizes of latent attention, if the family has it; then head_dim, which was the part that turns,
 *  becomes all of a query's head. After the fields, before anything is made of them. */
mq_status mq_arch_parse_latent(const mq_arch_texts *texts, mq_arch *arch);

/** Names and biases of its linears, in the place of q, k and v, and its norms. */
mq_status mq_arch_latent_names(const mq_arch_texts *texts, mq_arch *arch);

/** Linear attention, if the family has it: its sizes, its tensors, and the blocks that have it.
 *  After the names. */
mq_status mq_arch_parse_delta(const mq_arch_texts *texts, mq_arch *arch);

/** Which blocks have another kind of attention than the full one, by a list with an entry for each:
 *  those that it calls `name`, which may be where `allowed`, get the flag at offset `flag` of
 *  mq_block_kind. */
mq_status mq_arch_read_types(const mq_arch_texts *texts, const mq_spec_value *types,
                             const char *name, bool allowed, size_t flag, mq_arch *arch);

/** A member of "tensors"; in_block: it must have {i}. */
mq_status mq_arch_tensor_name(const mq_arch_texts *texts, const char *key, bool in_block,
                              char out[MQ_ARCH_NAME]);

/** What is only copied: the member "copied". */
mq_status mq_arch_parse_copied(const mq_arch_texts *texts, mq_arch *arch);

/** Mixture of experts, if the family has it: after names and sizes. */
mq_status mq_arch_parse_moe(const mq_arch_texts *texts, mq_arch *arch);

/** Layers that the family is known to be sensitive in, if any are: after the sizes. */
mq_status mq_arch_parse_sensitive(const mq_arch_texts *texts, mq_arch *arch);

/** What the descriptor says of GGUF, if anything. */
mq_status mq_arch_parse_gguf(const mq_arch_texts *texts, mq_arch *arch);

/** quantization_config. */
mq_status mq_arch_parse_quantization(const mq_arch_texts *texts, mq_arch *arch);

/** Refuses members of the descriptor that mean nothing. */
mq_status mq_arch_check_members(const mq_arch_texts *texts);

/** Refuses a key of config.json that nobody reads and that is not known to be harmless. */
mq_status mq_arch_check_keys(const mq_arch_texts *texts);

/** Of a list with the same entry for each block, that entry; else the value itself. */
const cJSON *mq_json_same_for_all(const cJSON *json);

/** True for null, false, 0, "" and empty lists and objects: a feature that is switched off. */
bool mq_json_is_off(const cJSON *value);

#endif
