#include "base/nearest.h"

#include <string.h>

enum { LONGEST = 64 };

static char plain(char c)
{
    return c == '_' ? '-' : c;
}

static int least(int a, int b, int c)
{
    int ab = a < b ? a : b;
    return ab < c ? ab : c;
}

/* Levenshtein's distance, a row of the table at a time; both words shorter than LONGEST. */
static int edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    int row[LONGEST];
    for (size_t j = 0; j <= n_b; j++) row[j] = (int)j;
    for (size_t i = 1; i <= n_a; i++) {
        int diagonal = row[0];
        row[0] = (int)i;
        for (size_t j = 1; j <= n_b; j++) {
            int replaced = diagonal + (plain(a[i - 1]) != plain(b[j - 1]));
            diagonal = row[j];
            row[j] = least(row[j] + 1, row[j - 1] + 1, replaced);
        }
    }
    return row[n_b];
}

void mq_nearest_offer(mq_nearest *near, const char *candidate)
{
    size_t n = strlen(near->word), n_candidate = strlen(candidate);
    if (n >= LONGEST || n_candidate >= LONGEST) return;
    int distance = edit_distance(near->word, n, candidate, n_candidate);
    if (n >= 3 && strncmp(near->word, candidate, n) == 0) distance = distance > 0;
    int limit = n / 3 > 2 ? (int)(n / 3) : 2;
    if (distance > limit || (near->best && distance >= near->distance)) return;
    near->best = candidate;
    near->distance = distance;
}
