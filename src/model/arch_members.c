#include "model/arch_parse.h"

#include <string.h>

/* What a descriptor may say: a misspelt member would be a feature that is silently left out. The
 * section "config" is checked where its fields are known, and "gguf" where it is read. */

enum { MOST_MEMBERS = 64 };

typedef struct section {
    const char *name; /* "": the descriptor itself */
    const char *members[MOST_MEMBERS];
} section;

static const section sections[] = {
    {"",
     {"family",          "model_types",  "config",        "bias",        "rope",   "sliding_rope",
      "no_rope",         "window",       "chunk",         "query_scale", "moe",    "tensors",
      "ignored_tensors", "ignored_keys", "expected_keys", "gguf",        "latent", "delta",
      "copied",          "language",     "sensitive"}},
    {"language", {"config", "flat", "model_types", "root_keys", "other_configs", "deepstack"}},
    {"bias", {"q", "k", "v", "q_a", "kv_a", "q_b", "kv_b", "o", "gate", "up", "down"}},
    {"delta", {"n_k_heads", "n_v_heads", "k_dim", "v_dim", "kernel", "layer_types", "every"}},
    {"latent", {"q_rank", "kv_rank", "nope_dim", "v_dim", "norm_eps"}},
    {"sensitive", {"skip", "bits8", "source"}},
    {"rope",
     {"theta", "parameters", "scaling", "partial", "dim", "original", "alpha", "doubling",
      "mrope"}},
    {"sliding_rope", {"theta"}},
    {"no_rope", {"list", "thetas", "every", "full_attention"}},
    {"window", {"size", "enabled", "first", "every", "every_first", "layer_types"}},
    {"chunk", {"size", "layer_types"}},
    {"query_scale", {"form", "enabled", "positions", "weight", "no_rope_only"}},
    {"tensors",
     {"embed",
      "final_norm",
      "head",
      "attn_norm",
      "mlp_norm",
      "o_norm",
      "down_norm",
      "q_norm",
      "k_norm",
      "sinks",
      "q_lora_norm",
      "kv_lora_norm",
      "q_a",
      "kv_a",
      "q_b",
      "kv_b",
      "in_qkvz",
      "in_qkv",
      "in_z",
      "in_ba",
      "in_b",
      "in_a",
      "conv",
      "a_log",
      "dt_bias",
      "delta_norm",
      "delta_out",
      "q",
      "k",
      "v",
      "qkv",
      "o",
      "gate",
      "up",
      "gate_up",
      "down",
      "router",
      "router_bias",
      "correction",
      "expert_gate",
      "expert_up",
      "expert_down",
      "shared_gate",
      "shared_up",
      "shared_down",
      "shared_weight",
      "other_router",
      "experts_gate_up",
      "experts_down",
      "experts_gate_up_bias",
      "experts_down_bias"}},
    {"moe",
     {"n_experts",
      "top_k",
      "score",
      "normalised",
      "least_sum",
      "scale",
      "n_groups",
      "top_groups",
      "group_score",
      "intermediate",
      "n_shared",
      "shared_intermediate",
      "list",
      "first",
      "last",
      "every",
      "dense",
      "transposed",
      "interleaved",
      "scales_inputs",
      "types",
      "other_kinds",
      "router_transposed",
      "either_way"}},
};

static bool has(const section *s, const char *name)
{
    for (int i = 0; i < MOST_MEMBERS && s->members[i]; i++) {
        if (strcmp(name, s->members[i]) == 0) return true;
    }
    return false;
}

static mq_status check_section(const mq_arch_texts *texts, const section *s)
{
    const cJSON *in = texts->descriptor, *item = NULL;
    if (s->name[0]) in = cJSON_GetObjectItemCaseSensitive(in, s->name);
    if (in && !cJSON_IsObject(in)) {
        return mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"%s\" must be an object", texts->family,
                       s->name);
    }
    cJSON_ArrayForEach(item, in)
    {
        if (has(s, item->string)) continue;
        mq_status status =
            mq_fail(MQ_E_INPUT, "descriptor \"%s\": \"%s\" has the unknown member \"%s\"",
                    texts->family, s->name[0] ? s->name : texts->family, item->string);
        MQ_TRY(mq_findings_add(texts->findings, status, MQ_FOUND_CONFIG, ""));
    }
    return MQ_OK;
}

mq_status mq_arch_check_members(const mq_arch_texts *texts)
{
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        MQ_TRY(check_section(texts, &sections[i]));
    }
    return MQ_OK;
}
