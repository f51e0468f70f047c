/* How a tokenizer cuts texts before BPE. tokenizer.json says how, GGUF only names it. */
#include "pipeline/gguf_tokenizer.h"

#include <string.h>

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
#define WORDS "[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
#define REST "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CAPITALS "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define SMALL "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"

/* The cuts in the order of tokenizer.json; bytes are always the last. */
typedef struct cuts {
    const char *split;  /* regular expression; NULL: none */
    bool digits;        /* each apart */
    bool words;         /* GPT-2's expression, with the bytes */
    bool ignore_merges; /* a word that is a token is one */
} cuts;

/* Names and expressions: llama.cpp, src/llama-vocab.cpp. */
static const struct {
    const char *name, *architecture; /* NULL: of any */
    cuts cuts;
} known[] = {
    {"gpt-2", NULL, {NULL, false, true, false}},
    {"command-r", "command-r", {NULL, true, true, false}},
    {"smollm", NULL, {NULL, true, true, false}},
    {"qwen2", NULL, {CONTRACTIONS WORDS "\\p{N}" REST, false, false, false}},
    {"llama-bpe", NULL, {CONTRACTIONS WORDS "\\p{N}{1,3}" REST, false, false, true}},
    {"smaug-bpe", NULL, {CONTRACTIONS WORDS "\\p{N}{1,3}" REST, false, false, false}},
    {"tekken",
     NULL,
     {"[^\\r\\n\\p{L}\\p{N}]?[" CAPITALS "]*[" SMALL "]+|"
      "[^\\r\\n\\p{L}\\p{N}]?[" CAPITALS "]+[" SMALL "]*|\\p{N}"
      "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      false, false, true}},
};

mq_status mq_gguf_refuse_tokenizer(const char *where, const char *what)
{
    return mq_fail(MQ_E_USAGE,
                   "--format gguf: %s: %s: write --format dense, and convert that with the script "
                   "of llama.cpp",
                   where, what);
}

static bool is_true(const cJSON *object, const char *key)
{
    return cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(object, key));
}

static const char *text_of(const cJSON *object, const char *path)
{
    const char *text = cJSON_GetStringValue(mq_json_find(object, path));
    return text ? text : "";
}

/* Adds a step that comes before the bytes; false for one that is not known. */
static bool add_step(const cJSON *step, cuts *c)
{
    const char *type = text_of(step, "type");
    if (strcmp(type, "Digits") == 0) {
        c->digits = true;
        return is_true(step, "individual_digits") && !c->split;
    }
    const char *regex = text_of(step, "pattern.Regex");
    bool good = strcmp(type, "Split") == 0 && regex[0] && !c->split && !c->digits &&
                strcmp(text_of(step, "behavior"), "Isolated") == 0 && !is_true(step, "invert");
    c->split = regex;
    return good;
}

/* The step that turns bytes into letters. */
static bool add_bytes(const cJSON *step, cuts *c)
{
    const cJSON *use_regex = cJSON_GetObjectItemCaseSensitive(step, "use_regex");
    c->words = !use_regex || cJSON_IsTrue(use_regex);
    return strcmp(text_of(step, "type"), "ByteLevel") == 0 && !is_true(step, "add_prefix_space");
}

static bool read_cuts(const cJSON *tokenizer, cuts *out)
{
    const cJSON *pre = mq_json_find(tokenizer, "pre_tokenizer"), *step = NULL;
    *out = (cuts){.ignore_merges = cJSON_IsTrue(mq_json_find(tokenizer, "model.ignore_merges"))};
    if (strcmp(text_of(pre, "type"), "Sequence") != 0) return add_bytes(pre, out);
    const cJSON *list = cJSON_GetObjectItemCaseSensitive(pre, "pretokenizers");
    cJSON_ArrayForEach(step, list)
    {
        if (!step->next) return add_bytes(step, out);
        if (!add_step(step, out)) return false;
    }
    return false;
}

static bool same_cuts(const cuts *a, const cuts *b)
{
    bool same_split = a->split && b->split ? strcmp(a->split, b->split) == 0 : a->split == b->split;
    return same_split && a->digits == b->digits && a->words == b->words &&
           a->ignore_merges == b->ignore_merges;
}

mq_status mq_gguf_pre_tokenizer(const cJSON *tokenizer, const char *architecture, const char *where,
                                const char **out)
{
    cuts found;
    bool good = read_cuts(tokenizer, &found);
    for (size_t i = 0; i < sizeof known / sizeof *known && good; i++) {
        const char *only = known[i].architecture;
        if ((only && strcmp(only, architecture) != 0) || !same_cuts(&known[i].cuts, &found)) {
            continue;
        }
        *out = known[i].name;
        return MQ_OK;
    }
    return mq_gguf_refuse_tokenizer(where, "what llama.cpp calls this \"pre_tokenizer\" is not "
                                           "known here");
}
