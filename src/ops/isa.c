#include "ops/isa.h"

#include "ops/ops.h"

#include <ctype.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef MQ_WITH_DNNL
#include <oneapi/dnnl/dnnl.h>
#endif
#if defined(MQ_WITH_DNNL) && defined(__x86_64__)
#include <cpuid.h>
#endif

/* From narrow to wide. "default" stands for a CPU without these, and for a build without oneDNN,
 * where OpenBLAS chooses for itself. */
enum { LEVEL_DEFAULT, LEVEL_SSE41, LEVEL_BF16 = 8 };
static const char *const names[] = {"default",
                                    "sse41",
                                    "avx",
                                    "avx2",
                                    "avx2_vnni",
                                    "avx2_vnni_2",
                                    "avx512_core",
                                    "avx512_core_vnni",
                                    "avx512_core_bf16",
                                    "avx512_core_fp16",
                                    "avx512_core_amx",
                                    "avx512_core_amx_fp16"};
enum { N_LEVELS = (int)(sizeof names / sizeof *names) };

const char *mq_ops_isa_name(int level)
{
    return level >= 0 && level < N_LEVELS ? names[level] : "unknown";
}

int mq_ops_isa_level(const char *isa)
{
    for (int i = 0; i < N_LEVELS; i++) {
        if (strcmp(isa, names[i]) == 0) return i;
    }
    return -1;
}

#ifdef MQ_WITH_DNNL

static atomic_bool libraries_asked; /* oneDNN settles its choice at the first question */

static dnnl_cpu_isa_t dnnl_isa(int level)
{
#if DNNL_VERSION_MAJOR >= 3
    static const dnnl_cpu_isa_t isa[N_LEVELS] = {dnnl_cpu_isa_sse41,
                                                 dnnl_cpu_isa_sse41,
                                                 dnnl_cpu_isa_avx,
                                                 dnnl_cpu_isa_avx2,
                                                 dnnl_cpu_isa_avx2_vnni,
                                                 dnnl_cpu_isa_avx2_vnni_2,
                                                 dnnl_cpu_isa_avx512_core,
                                                 dnnl_cpu_isa_avx512_core_vnni,
                                                 dnnl_cpu_isa_avx512_core_bf16,
                                                 dnnl_cpu_isa_avx512_core_fp16,
                                                 dnnl_cpu_isa_avx512_core_amx,
                                                 dnnl_cpu_isa_avx512_core_amx_fp16};
#else
    /* 2.x does not know the younger ones: the next narrower one that it knows. */
    static const dnnl_cpu_isa_t isa[N_LEVELS] = {dnnl_cpu_isa_sse41,
                                                 dnnl_cpu_isa_sse41,
                                                 dnnl_cpu_isa_avx,
                                                 dnnl_cpu_isa_avx2,
                                                 dnnl_cpu_isa_avx2_vnni,
                                                 dnnl_cpu_isa_avx2_vnni,
                                                 dnnl_cpu_isa_avx512_core,
                                                 dnnl_cpu_isa_avx512_core_vnni,
                                                 dnnl_cpu_isa_avx512_core_bf16,
                                                 dnnl_cpu_isa_avx512_core_bf16,
                                                 dnnl_cpu_isa_avx512_core_amx,
                                                 dnnl_cpu_isa_avx512_core_amx};
#endif
    return isa[level];
}

/* The widest level that oneDNN uses here and now. */
static int effective_level(void)
{
    libraries_asked = true;
    unsigned have = (unsigned)dnnl_get_effective_cpu_isa();
    for (int i = N_LEVELS - 1; i >= LEVEL_SSE41; i--) {
        unsigned want = (unsigned)dnnl_isa(i);
        if ((have & want) == want && (i == LEVEL_SSE41 || dnnl_isa(i) != dnnl_isa(i - 1))) return i;
    }
    return LEVEL_DEFAULT;
}

mq_status mq_isa_limit(const char *isa)
{
    int limit = *isa ? mq_ops_isa_level(isa) : N_LEVELS - 1;
    if (limit < 0) {
        return mq_fail(MQ_E_USAGE, "unknown instruction set \"%s\": expected one of %s ... %s", isa,
                       names[LEVEL_SSE41], names[N_LEVELS - 1]);
    }
    /* Fails when it is too late, which does no harm where nothing wider is in use. */
    if (*isa) dnnl_set_max_cpu_isa(dnnl_isa(limit));
    int level = effective_level(); /* settles it */
    if (level <= limit || level == LEVEL_SSE41) return MQ_OK;
    return mq_fail(MQ_E_INTERNAL,
                   "the instruction set is already %s: %s must be asked for before any kernel runs",
                   names[level], isa);
}

#ifdef __x86_64__

typedef struct cpu_bits {
    unsigned ecx1;             /* leaf 1 */
    unsigned ebx7, ecx7, edx7; /* leaf 7.0 */
    unsigned eax71, edx71;     /* leaf 7.1 */
    uint64_t xcr0;             /* register states that the kernel saves */
} cpu_bits;

static cpu_bits read_cpu(void)
{
    cpu_bits c = {0};
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx)) c.ecx1 = ecx;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) {
        c.ebx7 = ebx;
        c.ecx7 = ecx;
        c.edx7 = edx;
        if (eax >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
            c.eax71 = eax;
            c.edx71 = edx;
        }
    }
    if (c.ecx1 >> 27 & 1) { /* OSXSAVE */
        unsigned lo, hi;
        __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
        c.xcr0 = (uint64_t)hi << 32 | lo;
    }
    return c;
}

static bool has(unsigned word, int bit)
{
    return word >> bit & 1;
}

/* Bits as in Intel's manual, volume 2A, CPUID. */
static int cpu_level(void)
{
    cpu_bits c = read_cpu();
    bool ymm = (c.xcr0 & 0x6) == 0x6, zmm = (c.xcr0 & 0xE6) == 0xE6;
    bool tiles = (c.xcr0 & 0x60000) == 0x60000;
    bool avx = ymm && has(c.ecx1, 28), avx2 = avx && has(c.ebx7, 5) && has(c.ecx1, 12);
    bool core512 =
        avx2 && zmm && has(c.ebx7, 16) && has(c.ebx7, 17) && has(c.ebx7, 30) && has(c.ebx7, 31);
    bool vnni = core512 && has(c.ecx7, 11), bf16 = vnni && has(c.eax71, 5);
    bool fp16 = bf16 && has(c.edx7, 23), vnni2 = avx2 && has(c.eax71, 4);
    bool amx = bf16 && tiles && has(c.edx7, 24) && has(c.edx7, 25) && has(c.edx7, 22);
    bool amx_fp16 = amx && fp16 && has(c.eax71, 21);
    bool vnni2_2 = vnni2 && has(c.edx71, 4) && has(c.edx71, 5);
    const bool holds[N_LEVELS] = {
        true, has(c.ecx1, 19), avx, avx2, vnni2, vnni2_2, core512, vnni, bf16, fp16, amx, amx_fp16};
    int level = N_LEVELS - 1;
    while (!holds[level]) level--;
    return level;
}

#else

static int cpu_level(void)
{
    return LEVEL_DEFAULT;
}

#endif

/* The limit a user set for oneDNN in the environment ("AVX512_CORE"), or the widest. */
static int environment_level(void)
{
    const char *value = getenv("ONEDNN_MAX_CPU_ISA");
    if (!value) value = getenv("DNNL_MAX_CPU_ISA");
    char name[32] = "";
    for (size_t i = 0; value && value[i] && i < sizeof name - 1; i++) {
        name[i] = (char)tolower((unsigned char)value[i]);
    }
    int level = mq_ops_isa_level(name);
    return level < 0 ? N_LEVELS - 1 : level;
}

const char *mq_ops_isa(void)
{
    if (libraries_asked) return names[effective_level()];
    int cpu = cpu_level(), limit = environment_level();
    int level = cpu < limit ? cpu : limit;
    /* What this oneDNN does not tell apart is named by the narrower. */
    while (level > LEVEL_SSE41 && dnnl_isa(level) == dnnl_isa(level - 1)) level--;
    return names[level];
}

static bool bf16_here;

static void find_bf16(void)
{
    bf16_here = effective_level() >= LEVEL_BF16;
}

bool mq_ops_has_bf16(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, find_bf16);
    return bf16_here;
}

#else

mq_status mq_isa_limit(const char *isa)
{
    if (*isa == '\0' || mq_ops_isa_level(isa) >= 0) return MQ_OK;
    return mq_fail(MQ_E_USAGE, "unknown instruction set \"%s\": expected one of %s ... %s", isa,
                   names[LEVEL_SSE41], names[N_LEVELS - 1]);
}

const char *mq_ops_isa(void)
{
    return names[LEVEL_DEFAULT];
}

bool mq_ops_has_bf16(void)
{
    return false;
}

#endif
