#include "base/args.h"

#include <string.h>

/* The help text: a column of names and a column of explanations beside it. */

enum { WIDTH = 80, COLUMN = 24, ENTRY = 256 };

/* Prints words up to WIDTH; `column` is where the line stands, `indent` where the next ones begin.
 * A word that is longer than a line stands alone. */
static void print_wrapped(FILE *to, const char *text, int column, int indent)
{
    bool at_start = true;
    while (*text) {
        int n = (int)strcspn(text, " ");
        if (!at_start && column + 1 + n > WIDTH) {
            fprintf(to, "\n%*s", indent, "");
            column = indent;
            at_start = true;
        }
        fprintf(to, "%s%.*s", at_start ? "" : " ", n, text);
        column += n + !at_start;
        at_start = false;
        text += n;
        text += strspn(text, " ");
    }
    fputc('\n', to);
}

static void print_entry(FILE *to, const char *name, const char *text)
{
    int used = fprintf(to, "  %s", name);
    if (used > COLUMN - 2) {
        fprintf(to, "\n");
        used = 0;
    }
    fprintf(to, "%*s", COLUMN - used, "");
    print_wrapped(to, text, COLUMN, COLUMN);
}

static void print_option(FILE *to, const char *name, const char *metavar, const char *help,
                         const char *fallback)
{
    char left[ENTRY], text[4 * ENTRY];
    snprintf(left, sizeof left, "%s%s%s", name, metavar ? " " : "", metavar ? metavar : "");
    snprintf(text, sizeof text, "%s%s%s%s", help, fallback ? " (default: " : "",
             fallback ? fallback : "", fallback ? ")" : "");
    print_entry(to, left, text);
}

static void print_usage(const mq_args_spec *spec, FILE *to)
{
    char line[2048];
    int n = snprintf(line, sizeof line, "usage: %s", spec->name);
    for (int i = 0; i < spec->n_positionals && n < (int)sizeof line; i++) {
        const mq_positional *p = &spec->positionals[i];
        n += snprintf(line + n, sizeof line - (size_t)n, p->optional ? " [%s%s]" : " %s%s", p->name,
                      p->texts ? "..." : "");
    }
    for (int i = 0; i < spec->n_options && n < (int)sizeof line; i++) {
        const mq_option *o = &spec->options[i];
        if (!o->required) continue;
        n += snprintf(line + n, sizeof line - (size_t)n, " %s %s", o->name, o->metavar);
    }
    if (n < (int)sizeof line) snprintf(line + n, sizeof line - (size_t)n, " [options]");
    print_wrapped(to, line, 0, 7);
}

void mq_args_help(const mq_args_spec *spec, FILE *to)
{
    print_usage(spec, to);
    fprintf(to, "\n");
    print_wrapped(to, spec->summary, 0, 0);
    if (spec->n_positionals > 0) fprintf(to, "\narguments:\n");
    for (int i = 0; i < spec->n_positionals; i++) {
        print_entry(to, spec->positionals[i].name, spec->positionals[i].help);
    }
    fprintf(to, "\noptions:\n");
    for (int i = 0; i < spec->n_options; i++) {
        const mq_option *o = &spec->options[i];
        print_option(to, o->name, o->metavar, o->help, o->fallback);
    }
    if (spec->takes_config) {
        print_option(to, "--config", "FILE",
                     "read settings from a JSON object whose keys are the names of these options; "
                     "the command line wins over it",
                     NULL);
    }
    print_option(to, "--help", NULL, "print this text", NULL);
}
