#include "model/arch.h"
#include "par/collectives.h"
#include "test_model_folder.h"

/* mq_arch_load on several ranks: the same arch, or the same failure, everywhere. */

#define SIZES                                                                    \
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"num_hidden_layers\": 3, " \
    "\"vocab_size\": 100, \"num_attention_heads\": 4, \"num_key_value_heads\": 2"

static mq_comm *comm;

static void test_same_everywhere(void)
{
    static const char *const families[] = {"llama", "mistral", "qwen2", "qwen3", "cohere"};
    for (int i = 0; i < 5; i++) {
        file_model m = {.n = 0};
        char config[512];
        mq_arch *arch = NULL, first;
        snprintf(config, sizeof config, "{\"model_type\": \"%s\", \"rope_theta\": 5e4, " SIZES "}",
                 families[i]);
        file_write(&m, config);
        if (CHECK_ALL(mq_arch_load(comm, m.path, &arch) == MQ_OK)) {
            memcpy(&first, arch, sizeof first);
            CHECK(mq_bcast(comm, &first, sizeof first, 0) == MQ_OK);
            CHECK(memcmp(&first, arch, sizeof first) == 0);
            CHECK(strcmp(arch->family, families[i]) == 0);
            CHECK(arch->rope.theta == 5e4 && arch->hidden == 64);
            CHECK(strstr(arch->where, "config.json") != NULL);
        }
        mq_arch_destroy(&arch);
        CHECK(arch == NULL);
        file_remove(&m);
    }
}

static void fails(const char *model, mq_status status, const char *text)
{
    mq_arch *arch = NULL;
    mq_status got = mq_arch_load(comm, model, &arch);
    CHECK_MSG(got == status, "%s: status %d", text, (int)got);
    CHECK_MSG(strstr(mq_message(), text) != NULL, "\"%s\" lacks \"%s\"", mq_message(), text);
    CHECK(arch == NULL);
}

static void test_bad_models(void)
{
    file_model m = {.n = 0};
    file_write(&m, "{\"model_type\": \"martian\", " SIZES "}");
    fails(m.path, MQ_E_INPUT, "\"martian\" is not known");
    fails(m.path, MQ_E_INPUT, "this version knows cohere, ");
    file_write(&m, "{" SIZES "}");
    fails(m.path, MQ_E_INPUT, "model_type");
    file_write(&m, "{\"model_type\": \"llama\", ");
    fails(m.path, MQ_E_INPUT, "not valid JSON");
    file_write(&m, "{\"model_type\": \"llama\", \"hidden_size\": 64}");
    fails(m.path, MQ_E_INPUT, "num_hidden_layers");
    file_write(&m, "{\"model_type\": \"llama\", \"alibi\": true, " SIZES "}");
    fails(m.path, MQ_E_INPUT, "\"alibi\"");
    file_remove(&m);
    fails("/tmp/mpiquant-no-such-model", MQ_E_IO, "no such model folder");
    fails("/tmp", MQ_E_IO, "/tmp/config.json");
}

static void test_data_folder(void)
{
    file_model m = {.n = 0};
    file_write(&m, "{\"model_type\": \"llama\", " SIZES "}");
    setenv("MPIQUANT_DATA", m.path, 1);
    CHECK(strcmp(mq_data_folder(), m.path) == 0);
    fails(m.path, MQ_E_IO, "MPIQUANT_DATA");
    unsetenv("MPIQUANT_DATA");
    CHECK(strcmp(mq_data_folder(), MQ_SOURCE_DIR "/configs") == 0);
    file_remove(&m);
}

int main(int argc, char **argv)
{
    harness_start(&argc, &argv);
    if (mq_comm_create(MPI_COMM_WORLD, &comm) != MQ_OK) MPI_Abort(MPI_COMM_WORLD, 1);
    RUN(test_same_everywhere);
    RUN(test_bad_models);
    RUN(test_data_folder);
    mq_comm_destroy(&comm);
    return harness_finish();
}
