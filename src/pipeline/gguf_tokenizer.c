#include "pipeline/gguf_tokenizer.h"

#include "base/file.h"
#include "base/memory.h"
#include "format/sentencepiece.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const size_t file_limit = (size_t)256 << 20;

typedef enum token_type { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, UNUSED = 5 } token_type;

static const float added_score = -1000; /* below all pieces, as in llama.cpp's own conversion */

/* What the files say. */
typedef struct source {
    const char *model;                    /* folder */
    char where[1024];                     /* path of tokenizer.json, for messages */
    cJSON *tokenizer, *settings, *config; /* tokenizer.json, tokenizer_config.json, config.json */
    char *jinja;                          /* chat_template.jinja; NULL: none */
    const char **token;                   /* (n_tokens) by id, borrowed; NULL: a gap */
    int32_t *type;                        /* (n_tokens) */
    mq_sentencepiece pieces;              /* tokenizer.model, where it counts; else none */
    int64_t n_tokens;                     /* rows of the embedding */
} source;

/* ---- files ----------------------------------------------------------------------------------- */

static mq_status read_text(const char *model, const char *name, char **text, size_t *length)
{
    char *path = NULL;
    MQ_TRY(mq_path_join(model, name, &path));
    mq_status status = mq_file_exists(path) ? mq_read_text(path, file_limit, text, length) : MQ_OK;
    mq_free(&path);
    return status;
}

/* An empty object where there is no such file. */
static mq_status read_json(const char *model, const char *name, cJSON **out)
{
    char *text = NULL, where[1024];
    snprintf(where, sizeof where, "%s/%s", model, name);
    MQ_TRY(read_text(model, name, &text, NULL));
    mq_status status = mq_json_parse(text ? text : "{}", where, out);
    mq_free(&text);
    return status;
}

static mq_status read_files(source *s)
{
    snprintf(s->where, sizeof s->where, "%s/tokenizer.json", s->model);
    MQ_TRY(read_json(s->model, "tokenizer.json", &s->tokenizer));
    MQ_TRY(read_json(s->model, "tokenizer_config.json", &s->settings));
    MQ_TRY(read_json(s->model, "config.json", &s->config));
    if (s->tokenizer->child) return read_text(s->model, "chat_template.jinja", &s->jinja, NULL);
    return mq_fail(
        MQ_E_USAGE,
        "--format gguf: %s: missing or empty: the tokenizer goes into the file; make one "
        "with transformers (save_pretrained)",
        s->where);
}

/* ---- what has no form ------------------------------------------------------------------------ */

static bool is_empty(const cJSON *model, const char *key)
{
    const cJSON *value = mq_json_find(model, key);
    return !value || (cJSON_IsString(value) && !value->valuestring[0]);
}

/* llama.cpp leaves out NFC, as its own conversion does. */
static bool normalises(const cJSON *tokenizer)
{
    const cJSON *normalizer = mq_json_find(tokenizer, "normalizer");
    const char *type = cJSON_GetStringValue(mq_json_find(normalizer, "type"));
    return normalizer && (!type || strcmp(type, "NFC") != 0);
}

static mq_status check_bpe(const source *s)
{
    const cJSON *model = mq_json_find(s->tokenizer, "model");
    const char *type = cJSON_GetStringValue(mq_json_find(model, "type"));
    if (!type || strcmp(type, "BPE") != 0) {
        return mq_gguf_refuse_tokenizer(s->where, "its \"model\" is not BPE");
    }
    if (!is_empty(model, "continuing_subword_prefix") || !is_empty(model, "end_of_word_suffix")) {
        return mq_gguf_refuse_tokenizer(s->where, "it marks the ends of words");
    }
    if (normalises(s->tokenizer)) {
        return mq_gguf_refuse_tokenizer(s->where, "it has a \"normalizer\" other than NFC");
    }
    return MQ_OK;
}

/* tokenizer.json has the merges of a SentencePiece model, GGUF wants the scores of its pieces. */
static mq_status read_pieces(source *s)
{
    char where[1024], *data = NULL;
    size_t bytes = 0;
    snprintf(where, sizeof where, "%s/tokenizer.model", s->model);
    MQ_TRY(read_text(s->model, "tokenizer.model", &data, &bytes));
    if (!data) {
        return mq_gguf_refuse_tokenizer(s->where, "it is made from a SentencePiece model "
                                                  "(\"byte_fallback\"), and tokenizer.model is not "
                                                  "beside it: copy it there");
    }
    mq_status status = mq_sentencepiece_read(where, data, bytes, &s->pieces);
    mq_free(&data);
    if (status != MQ_OK || (s->pieces.bpe && !s->pieces.normalises)) return status;
    return mq_gguf_refuse_tokenizer(where, s->pieces.bpe ? "it changes characters of texts"
                                                         : "it is not BPE");
}

/* ---- tokens ---------------------------------------------------------------------------------- */

/* Of several mentions the first one says the type. */
static mq_status set_token(source *s, const char *text, double id, int32_t type)
{
    if (!text || !(id >= 0 && id < (double)s->n_tokens)) {
        return mq_fail(MQ_E_INPUT,
                       "%s: the token \"%.100s\" has an id outside the model's vocabulary of "
                       "%" PRId64,
                       s->where, text ? text : "", s->n_tokens);
    }
    int64_t i = (int64_t)id;
    if (s->token[i] && strcmp(s->token[i], text) == 0) return MQ_OK;
    if (s->token[i]) {
        return mq_fail(MQ_E_INPUT, "%s: the tokens \"%.100s\" and \"%.100s\" have one id, %" PRId64,
                       s->where, s->token[i], text, i);
    }
    s->token[i] = text;
    s->type[i] = type;
    return MQ_OK;
}

/* Tokenizers mark some control tokens as not special; llama.cpp goes by their looks. */
static token_type added_type(const cJSON *added, const char *text)
{
    size_t n = strlen(text);
    bool looks = n > 4 && strncmp(text, "<|", 2) == 0 && strcmp(text + n - 2, "|>") == 0;
    return looks || cJSON_IsTrue(mq_json_find(added, "special")) ? CONTROL : USER_DEFINED;
}

/* -1 for what is no number. */
static double id_of(const cJSON *id)
{
    return cJSON_IsNumber(id) ? id->valuedouble : -1;
}

static mq_status read_tokens(source *s)
{
    const cJSON *item = NULL;
    MQ_TRY(mq_alloc(s->n_tokens, sizeof *s->token, "tokens", (void *)&s->token));
    MQ_TRY(mq_alloc(s->n_tokens, sizeof *s->type, "tokens", &s->type));
    for (int64_t i = 0; i < s->pieces.n_pieces; i++) {
        MQ_TRY(set_token(s, s->pieces.piece[i].text, (double)i, s->pieces.piece[i].type));
    }
    cJSON_ArrayForEach(item, mq_json_find(s->tokenizer, "added_tokens"))
    {
        const char *text = cJSON_GetStringValue(mq_json_find(item, "content"));
        int32_t type = (int32_t)added_type(item, text ? text : "");
        MQ_TRY(set_token(s, text, id_of(mq_json_find(item, "id")), type));
    }
    cJSON_ArrayForEach(item, mq_json_find(s->tokenizer, "model.vocab"))
    {
        MQ_TRY(set_token(s, item->string, id_of(item), (int32_t)NORMAL));
    }
    return MQ_OK;
}

/* Gaps, and rows of the embedding beyond the last token, get names of their own. */
static void add_tokens(const source *s, mq_gguf_pairs *pairs)
{
    mq_gguf_add_array(pairs, "tokenizer.ggml.tokens", MQ_GGUF_STRING, (uint64_t)s->n_tokens);
    for (int64_t i = 0; i < s->n_tokens; i++) {
        char gap[32];
        snprintf(gap, sizeof gap, "[PAD%" PRId64 "]", i);
        mq_gguf_put_string(pairs, s->token[i] ? s->token[i] : gap);
    }
    mq_gguf_add_array(pairs, "tokenizer.ggml.token_type", MQ_GGUF_I32, (uint64_t)s->n_tokens);
    for (int64_t i = 0; i < s->n_tokens; i++) {
        mq_gguf_put_u32(pairs, (uint32_t)(s->token[i] ? s->type[i] : UNUSED));
    }
}

/* ---- merges ---------------------------------------------------------------------------------- */

/* "left right", in tokenizer.json also as a list of two. */
static mq_status add_merge(const source *s, const cJSON *merge, mq_gguf_pairs *pairs)
{
    const char *whole = cJSON_GetStringValue(merge);
    const char *left = cJSON_GetStringValue(cJSON_GetArrayItem(merge, 0));
    const char *right = cJSON_GetStringValue(cJSON_GetArrayItem(merge, 1));
    if (whole) {
        mq_gguf_put_string(pairs, whole);
        return MQ_OK;
    }
    if (!left || !right || strchr(left, ' ') || strchr(right, ' ')) {
        return mq_fail(MQ_E_INPUT, "%s: \"merges\" holds something not a pair of tokens", s->where);
    }
    mq_gguf_put_u64(pairs, strlen(left) + 1 + strlen(right));
    mq_gguf_put(pairs, left, strlen(left));
    mq_gguf_put(pairs, " ", 1);
    mq_gguf_put(pairs, right, strlen(right));
    return MQ_OK;
}

static mq_status add_merges(const source *s, mq_gguf_pairs *pairs)
{
    const cJSON *merges = mq_json_find(s->tokenizer, "model.merges"), *merge = NULL;
    mq_gguf_add_array(pairs, "tokenizer.ggml.merges", MQ_GGUF_STRING,
                      (uint64_t)cJSON_GetArraySize(merges));
    cJSON_ArrayForEach(merge, merges) MQ_TRY(add_merge(s, merge, pairs));
    return MQ_OK;
}

/* ---- special tokens -------------------------------------------------------------------------- */

/* The text of tokenizer_config.json's bos_token, ...: a string, or an object with one. */
static const char *special_text(const source *s, const char *role)
{
    char key[32];
    snprintf(key, sizeof key, "%s_token", role);
    const cJSON *value = mq_json_find(s->settings, key);
    const char *text = cJSON_GetStringValue(value);
    return text ? text : cJSON_GetStringValue(mq_json_find(value, "content"));
}

/* Its id, or else the one that config.json gives; -1: none. */
static int64_t special_id(const source *s, const char *role)
{
    char key[32];
    const char *text = special_text(s, role);
    for (int64_t i = 0; i < s->n_tokens && text; i++) {
        if (s->token[i] && strcmp(s->token[i], text) == 0) return i;
    }
    snprintf(key, sizeof key, "%s_token_id", role);
    const cJSON *id = mq_json_find(s->config, key);
    bool good = cJSON_IsNumber(id) && id->valuedouble >= 0 && id->valuedouble < (double)s->n_tokens;
    return good ? (int64_t)id->valuedouble : -1;
}

static void add_special_ids(const source *s, mq_gguf_pairs *pairs)
{
    static const struct {
        const char *role, *key;
    } roles[] = {{"bos", "tokenizer.ggml.bos_token_id"},
                 {"eos", "tokenizer.ggml.eos_token_id"},
                 {"unk", "tokenizer.ggml.unknown_token_id"},
                 {"pad", "tokenizer.ggml.padding_token_id"}};
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) {
        int64_t id = special_id(s, roles[i].role);
        if (id >= 0) mq_gguf_add_u32(pairs, roles[i].key, (uint32_t)id);
    }
}

/* The template by which tokenizer.json puts special tokens around a text; NULL: none. */
static const cJSON *find_template(const source *s)
{
    const cJSON *post = mq_json_find(s->tokenizer, "post_processor"), *step = NULL;
    const cJSON *list = mq_json_find(post, "processors");
    const char *type = cJSON_GetStringValue(mq_json_find(post, "type"));
    if (type && strcmp(type, "TemplateProcessing") == 0) return mq_json_find(post, "single");
    cJSON_ArrayForEach(step, list)
    {
        type = cJSON_GetStringValue(mq_json_find(step, "type"));
        if (type && strcmp(type, "TemplateProcessing") == 0) return mq_json_find(step, "single");
    }
    return NULL;
}

/* Whether the role's token stands at that end of the template. Without a template it is what
 * tokenizer_config.json says, if anything. A token that is not there cannot be added: llama.cpp
 * would end. */
static bool is_added(const source *s, const cJSON *template, const char *role, bool first)
{
    char key[32];
    snprintf(key, sizeof key, "add_%s_token", role);
    if (special_id(s, role) < 0) return false;
    if (!template) return cJSON_IsTrue(mq_json_find(s->settings, key));
    const cJSON *at = cJSON_GetArrayItem(template, first ? 0 : cJSON_GetArraySize(template) - 1);
    const char *found = cJSON_GetStringValue(mq_json_find(at, "SpecialToken.id"));
    const char *text = special_text(s, role);
    return found && text && strcmp(found, text) == 0;
}

static void add_added(const source *s, mq_gguf_pairs *pairs)
{
    const cJSON *template = find_template(s);
    mq_gguf_add_bool(pairs, "tokenizer.ggml.add_bos_token", is_added(s, template, "bos", true));
    mq_gguf_add_bool(pairs, "tokenizer.ggml.add_eos_token", is_added(s, template, "eos", false));
}

/* ---- chat template --------------------------------------------------------------------------- */

/* tokenizer_config.json has one template, or several with names; newer models a file. */
static const char *chat_template(const source *s)
{
    const cJSON *value = mq_json_find(s->settings, "chat_template"), *item = NULL;
    const cJSON *list = cJSON_IsArray(value) ? value : NULL;
    cJSON_ArrayForEach(item, list)
    {
        const char *name = cJSON_GetStringValue(mq_json_find(item, "name"));
        if (name && strcmp(name, "default") == 0) {
            return cJSON_GetStringValue(mq_json_find(item, "template"));
        }
    }
    const char *text = cJSON_GetStringValue(value);
    return text ? text : s->jinja;
}

/* ---- all of it ------------------------------------------------------------------------------- */

static mq_status add_bpe(source *s, const mq_arch *arch, mq_gguf_pairs *pairs)
{
    const char *pre = NULL;
    MQ_TRY(check_bpe(s));
    MQ_TRY(mq_gguf_pre_tokenizer(s->tokenizer, arch->gguf.architecture, s->where, &pre));
    MQ_TRY(read_tokens(s));
    mq_gguf_add_string(pairs, "tokenizer.ggml.model", "gpt2");
    mq_gguf_add_string(pairs, "tokenizer.ggml.pre", pre);
    add_tokens(s, pairs);
    return add_merges(s, pairs);
}

static mq_status add_pieces(source *s, mq_gguf_pairs *pairs)
{
    MQ_TRY(read_pieces(s));
    MQ_TRY(read_tokens(s));
    mq_gguf_add_string(pairs, "tokenizer.ggml.model", "llama");
    mq_gguf_add_string(pairs, "tokenizer.ggml.pre", "default");
    add_tokens(s, pairs);
    mq_gguf_add_array(pairs, "tokenizer.ggml.scores", MQ_GGUF_F32, (uint64_t)s->n_tokens);
    for (int64_t i = 0; i < s->n_tokens; i++) {
        float score = i < s->pieces.n_pieces ? s->pieces.piece[i].score : added_score;
        mq_gguf_put(pairs, &score, sizeof score);
    }
    mq_gguf_add_bool(pairs, "tokenizer.ggml.add_space_prefix", s->pieces.space_prefix);
    return MQ_OK;
}

static mq_status add_all(source *s, const mq_arch *arch, mq_gguf_pairs *pairs)
{
    bool of_pieces = cJSON_IsTrue(mq_json_find(s->tokenizer, "model.byte_fallback"));
    MQ_TRY(of_pieces ? add_pieces(s, pairs) : add_bpe(s, arch, pairs));
    add_special_ids(s, pairs);
    add_added(s, pairs);
    const char *template = chat_template(s);
    if (template) mq_gguf_add_string(pairs, "tokenizer.chat_template", template);
    return MQ_OK;
}

mq_status mq_gguf_add_tokenizer(const char *model, const mq_arch *arch, mq_gguf_pairs *pairs)
{
    source s = {.model = model, .n_tokens = arch->vocab};
    mq_status status = read_files(&s);
    if (status == MQ_OK) status = add_all(&s, arch, pairs);
    cJSON_Delete(s.tokenizer);
    cJSON_Delete(s.settings);
    cJSON_Delete(s.config);
    mq_free(&s.jinja);
    mq_free((void *)&s.token);
    mq_free(&s.type);
    mq_sentencepiece_clear(&s.pieces);
    return status;
}
