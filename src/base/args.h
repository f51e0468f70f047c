#ifndef MQ_BASE_ARGS_H
#define MQ_BASE_ARGS_H

#include "base/status.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* The command line of one command, from tables:
 *
 *     const char *model = NULL, *calib = NULL;
 *     int64_t bits = 4;
 *     mq_texts skip = {0};
 *     bool json = false;
 *     const mq_positional positionals[] = {
 *         {"MODEL", "folder of the model", .text = &model},
 *     };
 *     const mq_option options[] = {
 *         {"--calib", "FILE", "calibration tokens", .text = &calib, .required = true},
 *         {"--bits", "N", "bits per weight", "4", .integer = &bits},
 *         {"--skip", "REGEX", "leave matching layers alone; may be repeated", .texts = &skip},
 *         {"--json", .help = "print one JSON object", .flag = &json},
 *     };
 *     const mq_args_spec spec = {"mpiquant quantize", "Quantises a model.", positionals, 1,
 *                                options, 4, .takes_config = true};
 *     mq_args args = {0};
 *     mq_status status = mq_args_parse(&spec, argc, argv, &args);
 *     if (status == MQ_OK && args.help) mq_args_help(&spec, stdout);
 *     ...
 *     mq_args_free(&args); // last: texts may live in it
 *
 * Both `--name value` and `--name=value` are understood; flags also as `--name=false`; `--` ends
 * the options. Where an option is given twice the last one counts, except for .texts, which
 * collects.
 * `--help` and, with takes_config, `--config FILE` come by themselves. The file holds one JSON
 * object whose keys are the option names without the dashes in front, '-' and '_' alike: true and
 * false for a flag, an array (or one string) for .texts. The command line wins over it. */

/** The values of an option or argument that may be repeated. */
typedef struct mq_texts {
    const char **item;
    int64_t n;
} mq_texts;

typedef struct mq_option {
    const char *name;     /* "--bits" */
    const char *metavar;  /* "N"; NULL for a flag only */
    const char *help;     /* what it does, without a full stop */
    const char *fallback; /* the default as help shows it, or NULL */
    /* Where the value goes: exactly one is set. What is not given is left alone. */
    bool *flag;
    int64_t *integer;
    double *number;   /* finite */
    const char *word; /* may stand in the place of the number, NULL: none; *word_given says so */
    bool *word_given;
    const char **text; /* valid until mq_args_free */
    mq_texts *texts;   /* {0} before; valid until mq_args_free */
    bool required;
} mq_option;

typedef struct mq_positional {
    const char *name; /* "MODEL" */
    const char *help;
    /* Exactly one is set. */
    const char **text;
    mq_texts *texts; /* all that are left, one at least unless optional; only as the last */
    bool optional;   /* those behind it must be optional too */
} mq_positional;

typedef struct mq_args_spec {
    const char *name;    /* "mpiquant quantize" */
    const char *summary; /* a sentence or a paragraph for the help */
    const mq_positional *positionals;
    int n_positionals;
    const mq_option *options;
    int n_options;
    bool takes_config;
} mq_args_spec;

/** What a parse holds on to; {0} before. */
typedef struct mq_args {
    bool help; /* --help was given: nothing else was looked at further */
    const mq_args_spec *spec;
    cJSON *config;
} mq_args;

/** Reads argv[1] .. argv[argc - 1] (argv[0] is the command's name). Not collective: every rank
 *  parses for itself. argv and spec outlive *args. On failure *args is freed already.
 *  Errors: MQ_E_USAGE naming the option (and the nearest known one), what was expected and found;
 *  MQ_E_IO or MQ_E_INPUT when the config file cannot be read or is not JSON; MQ_E_MEMORY. */
mq_status mq_args_parse(const mq_args_spec *spec, int argc, char **argv, mq_args *args);

/** Frees what the parse allocated; texts must not be used afterwards. Safe on {0}. */
void mq_args_free(mq_args *args);

/** Usage line, summary, arguments and options, wrapped at 80 columns. */
void mq_args_help(const mq_args_spec *spec, FILE *to);

#endif
