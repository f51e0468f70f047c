/* mpiquant: MPI, the table of commands, exit codes. */
#include "cmd/cmd.h"
#include "mpiquant/mpiquant.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct command {
    const char *name;
    mq_status (*run)(const mq_comm *comm, int argc, char **argv);
    const char *summary;
} command;

static const command commands[] = {
    {"quantize", mq_cmd_quantize, "quantise a model into a new folder"},
    {"eval", mq_cmd_eval, "perplexity, KL and top-1 agreement over a token file"},
    {"verify", mq_cmd_verify, "check an output folder byte by byte"},
    {"inspect", mq_cmd_inspect, "list what a file or folder holds"},
};

static void print_help(FILE *to)
{
    fputs("usage: mpiquant COMMAND [arguments], under mpirun or srun for more than one rank\n\n"
          "Quantises large language models on an MPI cluster.\n\ncommands:\n",
          to);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        fprintf(to, "  %-10s %s\n", commands[i].name, commands[i].summary);
    }
    fputs("\n'mpiquant COMMAND --help' explains a command; 'mpiquant --version' names the build.\n"
          "exit codes: 0 done, 2 usage, 3 bad input, 4 input/output, 5 numerical, 6 memory,\n"
          "            70 internal, 73 output in use, 75 stopped with a checkpoint\n",
          to);
}

static mq_status dispatch(const mq_comm *comm, int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(name, commands[i].name) == 0) return commands[i].run(comm, argc - 1, argv + 1);
    }
    if (strcmp(name, "--version") == 0) {
        if (comm->rank == 0) printf("mpiquant %s\n%s\n", mq_version(), mq_build_description());
        return MQ_OK;
    }
    bool help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;
    if (comm->rank == 0) print_help(help ? stdout : stderr);
    if (help) return MQ_OK;
    if (!name[0]) return mq_fail(MQ_E_USAGE, "no command given");
    return mq_fail(MQ_E_USAGE, "there is no command '%s'", name);
}

static int number_in(const char *variable)
{
    const char *text = getenv(variable);
    return text ? atoi(text) : 0;
}

/* How many tasks the innermost launcher started: mpirun and PMI-1 or PMI-2 say so themselves, and
 * win over the Slurm step that they may run in; 0 when nothing launched this process. */
static int tasks_started(void)
{
    static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE",
                                            "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) {
        if (getenv(variables[i])) return number_in(variables[i]);
    }
    return 0;
}

/* srun without a PMI that MPI understands, or the mpirun of another MPI, starts N programs that
 * each believe to be alone; they would all write the same output. */
static mq_status check_launcher(int size)
{
    int tasks = tasks_started();
    if (size > 1 || tasks <= 1) return MQ_OK;
    return mq_fail(MQ_E_USAGE,
                   "%d tasks were started, but each of them believes to be the only one: add "
                   "--mpi=pmix to srun ('srun --mpi=list' shows what this cluster has), or use the "
                   "mpirun of the MPI that mpiquant was built with",
                   tasks);
}

/* True when MPI_Init is sure to find no other task: Open MPI 4 would then end a task of srun with a
 * text about building Slurm, Open MPI 5 would go on alone. Other MPIs may do without these
 * variables (Slurm's own libpmi), so they are judged by the size of MPI_COMM_WORLD only. */
static bool pmi_is_missing(void)
{
#ifdef OPEN_MPI
    return !getenv("PMIX_RANK") && !getenv("PMI_SIZE");
#else
    return false;
#endif
}

static void print_failure(mq_status status)
{
    fprintf(stderr, "mpiquant: %s: %s\n", mq_status_name(status), mq_message());
}

int main(int argc, char **argv)
{
    int provided = 0;
    mq_comm *comm = NULL;
    /* A file-size limit becomes a failing write with a message, not a dead rank. */
    signal(SIGXFSZ, SIG_IGN);
    mq_status status = pmi_is_missing() ? check_launcher(1) : MQ_OK;
    if (status != MQ_OK) {
        print_failure(status);
        return mq_exit_code(status);
    }
    if (MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) return 70;
    status = mq_comm_create(MPI_COMM_WORLD, &comm);
    if (status == MQ_OK) status = check_launcher(comm->size);
    if (status == MQ_OK) status = dispatch(comm, argc, argv);
    if (status == MQ_OK && (fflush(stdout) != 0 || ferror(stdout))) {
        status = mq_fail(MQ_E_IO, "cannot write to the standard output");
    }
    if (status != MQ_OK && (!comm || comm->rank == 0)) print_failure(status);
    /* After a failure inside MPI the ranks may have parted: finalising could wait for ever. */
    if (status == MQ_E_INTERNAL) MPI_Abort(MPI_COMM_WORLD, mq_exit_code(status));
    mq_comm_destroy(&comm);
    MPI_Finalize();
    return mq_exit_code(status);
}
