/* Made by format_golden.py: do not edit. */
/* clang-format off */
static const struct golden_layer {
    const char *format;
    mq_layer_shape shape;
    struct {
        const char *what; /* suffix, type, dimensions */
        uint64_t fnv;     /* FNV-1a of its bytes */
    } part[MQ_MAX_PARTS];
} golden_layers[] = {
    {"gptq", {7, 32, 16, 2, false, MQ_BF16, 0}, {
        {"qweight I32 2 7", 0xFD45425CF64B720CU},
        {"qzeros I32 2 1", 0x916B1D4D92E97D11U},
        {"scales F16 2 7", 0x4BFD47B73FE19C4FU},
        {"g_idx I32 32", 0x89362AA44EED88A5U},
    }},
    {"gptq", {70, 96, 96, 2, false, MQ_BF16, 0}, {
        {"qweight I32 6 70", 0x62EDF768E174DAB7U},
        {"qzeros I32 1 5", 0x501B344E83051957U},
        {"scales F16 1 70", 0x8751C228E94F39EFU},
        {"g_idx I32 96", 0xC86EC345C0EE8125U},
    }},
    {"gptq", {7, 32, 16, 3, false, MQ_BF16, 0}, {
        {"qweight I32 3 7", 0xB7ADC65D1B62538FU},
        {"qzeros I32 2 1", 0x0ED6FC6FF3818D3DU},
        {"scales F16 2 7", 0x4BFD47B73FE19C4FU},
        {"g_idx I32 32", 0x89362AA44EED88A5U},
    }},
    {"gptq", {70, 96, 96, 3, false, MQ_BF16, 0}, {
        {"qweight I32 9 70", 0xEA44DF6A980E3494U},
        {"qzeros I32 1 7", 0x8B04445E9807EAEDU},
        {"scales F16 1 70", 0x8751C228E94F39EFU},
        {"g_idx I32 96", 0xC86EC345C0EE8125U},
    }},
    {"gptq", {7, 32, 16, 4, false, MQ_BF16, 0}, {
        {"qweight I32 4 7", 0x4924E72AB3B21E3DU},
        {"qzeros I32 2 1", 0xF0804AB40C839F8DU},
        {"scales F16 2 7", 0x4BFD47B73FE19C4FU},
        {"g_idx I32 32", 0x89362AA44EED88A5U},
    }},
    {"gptq", {70, 96, 96, 4, false, MQ_BF16, 0}, {
        {"qweight I32 12 70", 0x27F0EB242322AAE6U},
        {"qzeros I32 1 9", 0x42E84B0C941237A4U},
        {"scales F16 1 70", 0x8751C228E94F39EFU},
        {"g_idx I32 96", 0xC86EC345C0EE8125U},
    }},
    {"gptq", {7, 32, 16, 8, false, MQ_BF16, 0}, {
        {"qweight I32 8 7", 0xD0962C2AFFA15D34U},
        {"qzeros I32 2 2", 0xB98EBFD4B24C7FC5U},
        {"scales F16 2 7", 0x4BFD47B73FE19C4FU},
        {"g_idx I32 32", 0x89362AA44EED88A5U},
    }},
    {"gptq", {70, 96, 96, 8, false, MQ_BF16, 0}, {
        {"qweight I32 24 70", 0x76C944C4F5E04DE0U},
        {"qzeros I32 1 18", 0xB9D7D022A449DD87U},
        {"scales F16 1 70", 0x8751C228E94F39EFU},
        {"g_idx I32 96", 0xC86EC345C0EE8125U},
    }},
    {"gptq_v2", {33, 64, 16, 2, false, MQ_F16, 0}, {
        {"qweight I32 4 33", 0x2216DAF0C13F721BU},
        {"qzeros I32 4 3", 0x534A9BDD8CE5F625U},
        {"scales F16 4 33", 0x8EEE7D9851A864D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 2, false, MQ_F16, 0}, {
        {"qweight I32 10 8", 0x7165838DC3E8E5D2U},
        {"qzeros I32 1 1", 0xED0AEFF0219F051DU},
        {"scales F16 1 8", 0x4262347C847AC6D9U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 2, true, MQ_F16, 0}, {
        {"qweight I32 4 33", 0x2216DAF0C13F721BU},
        {"qzeros I32 4 3", 0x95DBB8A9DDFF71EBU},
        {"scales F16 4 33", 0x3CBF5B1224D6B5D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 2, true, MQ_F16, 0}, {
        {"qweight I32 10 8", 0x7165838DC3E8E5D2U},
        {"qzeros I32 1 1", 0xF49027E9DD48B8B0U},
        {"scales F16 1 8", 0x1629AC569C7E5759U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 3, false, MQ_F16, 0}, {
        {"qweight I32 6 33", 0x3E52CABADCCC5C46U},
        {"qzeros I32 4 4", 0x20D929143B291B25U},
        {"scales F16 4 33", 0x8EEE7D9851A864D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 3, false, MQ_F16, 0}, {
        {"qweight I32 15 8", 0x475D4CE2BB9CA5C3U},
        {"qzeros I32 1 1", 0x3362F654D94E08BCU},
        {"scales F16 1 8", 0x4262347C847AC6D9U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 3, true, MQ_F16, 0}, {
        {"qweight I32 6 33", 0x3E52CABADCCC5C46U},
        {"qzeros I32 4 4", 0x1A45F973F537E7FCU},
        {"scales F16 4 33", 0x3CBF5B1224D6B5D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 3, true, MQ_F16, 0}, {
        {"qweight I32 15 8", 0x475D4CE2BB9CA5C3U},
        {"qzeros I32 1 1", 0x3FB7BC2D4B3D0DB5U},
        {"scales F16 1 8", 0x1629AC569C7E5759U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 4, false, MQ_F16, 0}, {
        {"qweight I32 8 33", 0xC49F86BE86459014U},
        {"qzeros I32 4 5", 0xF4591B682AB9AC65U},
        {"scales F16 4 33", 0x8EEE7D9851A864D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 4, false, MQ_F16, 0}, {
        {"qweight I32 20 8", 0x29C0ACD28FE5E996U},
        {"qzeros I32 1 1", 0x39117AEB1C12FEF5U},
        {"scales F16 1 8", 0x4262347C847AC6D9U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 4, true, MQ_F16, 0}, {
        {"qweight I32 8 33", 0xC49F86BE86459014U},
        {"qzeros I32 4 5", 0xC04CF8778629A588U},
        {"scales F16 4 33", 0x3CBF5B1224D6B5D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 4, true, MQ_F16, 0}, {
        {"qweight I32 20 8", 0x29C0ACD28FE5E996U},
        {"qzeros I32 1 1", 0xC6203AD4C5E326E5U},
        {"scales F16 1 8", 0x1629AC569C7E5759U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 8, false, MQ_F16, 0}, {
        {"qweight I32 16 33", 0xDA5130E01EBE7E26U},
        {"qzeros I32 4 9", 0x72316A9E4D37A965U},
        {"scales F16 4 33", 0x8EEE7D9851A864D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 8, false, MQ_F16, 0}, {
        {"qweight I32 40 8", 0x72963BEB8DE20385U},
        {"qzeros I32 1 2", 0x8B48B97AAB0F9CC5U},
        {"scales F16 1 8", 0x4262347C847AC6D9U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"gptq_v2", {33, 64, 16, 8, true, MQ_F16, 0}, {
        {"qweight I32 16 33", 0xDA5130E01EBE7E26U},
        {"qzeros I32 4 9", 0xE77949C4F4F7C1FDU},
        {"scales F16 4 33", 0x3CBF5B1224D6B5D6U},
        {"g_idx I32 64", 0x7261C87A8A0A8025U},
    }},
    {"gptq_v2", {8, 160, 160, 8, true, MQ_F16, 0}, {
        {"qweight I32 40 8", 0x72963BEB8DE20385U},
        {"qzeros I32 1 2", 0xA8CDB89D8DF0B626U},
        {"scales F16 1 8", 0x1629AC569C7E5759U},
        {"g_idx I32 160", 0x96554CE2CFB01525U},
    }},
    {"compressed-tensors", {67, 128, 32, 2, false, MQ_BF16, 0}, {
        {"weight_packed I32 67 8", 0xA13793F7505936BCU},
        {"weight_scale BF16 67 4", 0xB2033824C7DDAA70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
    }},
    {"compressed-tensors", {32, 72, 72, 2, false, MQ_F16, 0}, {
        {"weight_packed I32 32 5", 0xA6A93AF86E3729FCU},
        {"weight_scale F16 32 1", 0x60E878375F78C476U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
    }},
    {"compressed-tensors", {5, 40, 8, 2, false, MQ_F32, 0}, {
        {"weight_packed I32 5 3", 0x0A3A8F3B83B58A3CU},
        {"weight_scale BF16 5 5", 0xD4A3B9480228D625U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
    }},
    {"compressed-tensors", {67, 128, 32, 2, true, MQ_BF16, 0}, {
        {"weight_packed I32 67 8", 0xA13793F7505936BCU},
        {"weight_scale BF16 67 4", 0x7E9240153FF35E70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
        {"weight_zero_point I32 5 4", 0x56C3B3CB42FD6D55U},
    }},
    {"compressed-tensors", {32, 72, 72, 2, true, MQ_F16, 0}, {
        {"weight_packed I32 32 5", 0xA6A93AF86E3729FCU},
        {"weight_scale F16 32 1", 0x915EC80ED008A8F6U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
        {"weight_zero_point I32 2 1", 0x5144B03D6D36E036U},
    }},
    {"compressed-tensors", {5, 40, 8, 2, true, MQ_F32, 0}, {
        {"weight_packed I32 5 3", 0x0A3A8F3B83B58A3CU},
        {"weight_scale BF16 5 5", 0x4BB14425FC14A4A5U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
        {"weight_zero_point I32 1 5", 0x44E65529D16FA9D3U},
    }},
    {"compressed-tensors", {67, 128, 32, 4, false, MQ_BF16, 0}, {
        {"weight_packed I32 67 16", 0x816CBCE6ABBB8196U},
        {"weight_scale BF16 67 4", 0xB2033824C7DDAA70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
    }},
    {"compressed-tensors", {32, 72, 72, 4, false, MQ_F16, 0}, {
        {"weight_packed I32 32 9", 0x49C5A508DBCA1464U},
        {"weight_scale F16 32 1", 0x60E878375F78C476U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
    }},
    {"compressed-tensors", {5, 40, 8, 4, false, MQ_F32, 0}, {
        {"weight_packed I32 5 5", 0xB9323FC2B41E275EU},
        {"weight_scale BF16 5 5", 0xD4A3B9480228D625U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
    }},
    {"compressed-tensors", {67, 128, 32, 4, true, MQ_BF16, 0}, {
        {"weight_packed I32 67 16", 0x816CBCE6ABBB8196U},
        {"weight_scale BF16 67 4", 0x7E9240153FF35E70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
        {"weight_zero_point I32 9 4", 0xA6CF84371F7A214CU},
    }},
    {"compressed-tensors", {32, 72, 72, 4, true, MQ_F16, 0}, {
        {"weight_packed I32 32 9", 0x49C5A508DBCA1464U},
        {"weight_scale F16 32 1", 0x915EC80ED008A8F6U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
        {"weight_zero_point I32 4 1", 0x96AE5E00320EE887U},
    }},
    {"compressed-tensors", {5, 40, 8, 4, true, MQ_F32, 0}, {
        {"weight_packed I32 5 5", 0xB9323FC2B41E275EU},
        {"weight_scale BF16 5 5", 0x4BB14425FC14A4A5U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
        {"weight_zero_point I32 1 5", 0xED7AD0A4977E4EA6U},
    }},
    {"compressed-tensors", {67, 128, 32, 8, false, MQ_BF16, 0}, {
        {"weight_packed I32 67 32", 0xEBC81C7B7B0A9AE2U},
        {"weight_scale BF16 67 4", 0xB2033824C7DDAA70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
    }},
    {"compressed-tensors", {32, 72, 72, 8, false, MQ_F16, 0}, {
        {"weight_packed I32 32 18", 0x4A1831C7CEC3DCCBU},
        {"weight_scale F16 32 1", 0x60E878375F78C476U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
    }},
    {"compressed-tensors", {5, 40, 8, 8, false, MQ_F32, 0}, {
        {"weight_packed I32 5 10", 0x223E51F5E4A56C7DU},
        {"weight_scale BF16 5 5", 0xD4A3B9480228D625U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
    }},
    {"compressed-tensors", {67, 128, 32, 8, true, MQ_BF16, 0}, {
        {"weight_packed I32 67 32", 0xEBC81C7B7B0A9AE2U},
        {"weight_scale BF16 67 4", 0x7E9240153FF35E70U},
        {"weight_shape I64 2", 0x14072C0BB0FF9D66U},
        {"weight_zero_point I32 17 4", 0xA8A9A26012BCD972U},
    }},
    {"compressed-tensors", {32, 72, 72, 8, true, MQ_F16, 0}, {
        {"weight_packed I32 32 18", 0x4A1831C7CEC3DCCBU},
        {"weight_scale F16 32 1", 0x915EC80ED008A8F6U},
        {"weight_shape I64 2", 0x5EE5614211A9358DU},
        {"weight_zero_point I32 8 1", 0x45A8917701AB2379U},
    }},
    {"compressed-tensors", {5, 40, 8, 8, true, MQ_F32, 0}, {
        {"weight_packed I32 5 10", 0x223E51F5E4A56C7DU},
        {"weight_scale BF16 5 5", 0x4BB14425FC14A4A5U},
        {"weight_shape I64 2", 0x15A709F7FB26F808U},
        {"weight_zero_point I32 2 5", 0x37C28C9612F2278EU},
    }},
    {"exl2", {32, 64, 32, 2, false, MQ_F16, 0}, {
        {"q_weight I32 4 32", 0x9FA98C51D70ECED6U},
        {"q_invperm I32 64", 0xF5F45328A8EBDB25U},
        {"q_groups I16 4", 0xA6CEFA3391931B37U},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 4", 0x0B798393CCD584D4U},
    }},
    {"exl2", {96, 192, 96, 2, false, MQ_F16, 0}, {
        {"q_weight I32 12 96", 0x84F6BBA763ABC402U},
        {"q_invperm I32 192", 0x1995140247309125U},
        {"q_groups I16 4", 0xA6C1623391878E93U},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 12", 0x64B8D1BB391C0677U},
    }},
    {"exl2", {32, 64, 32, 3, false, MQ_F16, 0}, {
        {"q_weight I32 6 32", 0xEA77E2E7EC8096C7U},
        {"q_invperm I32 64", 0xF5F45328A8EBDB25U},
        {"q_groups I16 4", 0x27CB7932DCD6AA7EU},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 4", 0x0B798393CCD584D4U},
    }},
    {"exl2", {96, 192, 96, 3, false, MQ_F16, 0}, {
        {"q_weight I32 18 96", 0x1F0EC646C4180187U},
        {"q_invperm I32 192", 0x1995140247309125U},
        {"q_groups I16 4", 0x27A97D32DCB9CAE4U},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 12", 0x64B8D1BB391C0677U},
    }},
    {"exl2", {32, 64, 32, 4, false, MQ_F16, 0}, {
        {"q_weight I32 8 32", 0x2151883391F72482U},
        {"q_invperm I32 64", 0xF5F45328A8EBDB25U},
        {"q_groups I16 4", 0xACB9F42F552876E1U},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 4", 0x0B798393CCD584D4U},
    }},
    {"exl2", {96, 192, 96, 4, false, MQ_F16, 0}, {
        {"q_weight I32 24 96", 0x090574E5C09F28CAU},
        {"q_invperm I32 192", 0x1995140247309125U},
        {"q_groups I16 4", 0xAC9EC42F55115D99U},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 12", 0x64B8D1BB391C0677U},
    }},
    {"exl2", {32, 64, 32, 8, false, MQ_F16, 0}, {
        {"q_weight I32 16 32", 0x9F3DB729322490F9U},
        {"q_invperm I32 64", 0xF5F45328A8EBDB25U},
        {"q_groups I16 4", 0xA0ADA037CDCF8CFDU},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 4", 0x0B798393CCD584D4U},
    }},
    {"exl2", {96, 192, 96, 8, false, MQ_F16, 0}, {
        {"q_weight I32 48 96", 0x896E12A33256CA2FU},
        {"q_invperm I32 192", 0x1995140247309125U},
        {"q_groups I16 4", 0xA0774037CDA15A6DU},
        {"q_scale_max F16 2", 0x0D68D9800B2F3B4AU},
        {"q_scale I32 2 12", 0x64B8D1BB391C0677U},
    }},
    {"gguf", {3, 32, 32, 4, false, MQ_BF16, 0}, {
        {"weight Q4_0 3 1", 0x832EEBCEF8779787U},
    }},
    {"gguf", {32, 192, 64, 4, false, MQ_BF16, 0}, {
        {"weight Q4_0 32 6", 0x5270C61D045A1989U},
    }},
    {"gguf", {32, 64, 32, 4, false, MQ_BF16, 8}, {
        {"weight Q4_0 32 2", 0xDD7167D8CC4C7B8EU},
    }},
    {"gguf", {3, 32, 32, 4, true, MQ_BF16, 0}, {
        {"weight Q4_1 3 1", 0x36A74801B0831D0FU},
    }},
    {"gguf", {32, 192, 64, 4, true, MQ_BF16, 0}, {
        {"weight Q4_1 32 6", 0xD0D7D63BA6E9B0F9U},
    }},
    {"gguf", {32, 64, 32, 4, true, MQ_BF16, 8}, {
        {"weight Q4_1 32 2", 0xA75574D190CD6424U},
    }},
    {"gguf", {3, 32, 32, 8, false, MQ_BF16, 0}, {
        {"weight Q8_0 3 1", 0x86E737948F7AD281U},
    }},
    {"gguf", {32, 192, 64, 8, false, MQ_BF16, 0}, {
        {"weight Q8_0 32 6", 0xB93EC5C54E089475U},
    }},
    {"gguf", {32, 64, 32, 8, false, MQ_BF16, 8}, {
        {"weight Q8_0 32 2", 0xE4C00E4333255487U},
    }},
};
