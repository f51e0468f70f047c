#include "base/ratio.h"

#include <math.h>

enum { TABLE = 30 };

static const double student_975[TABLE] = {
    12.706204736174694, 4.3026527297494619, 3.1824463052837078, 2.7764451051977934,
    2.5705818356363146, 2.4469118511449786, 2.364624251592784,  2.3060041352041658,
    2.2621571627982049, 2.2281388519862739, 2.2009851600916388, 2.1788128296672284,
    2.1603686564627913, 2.1447866879178039, 2.1314495455597759, 2.1199052992212546,
    2.1098155778333156, 2.1009220402410382, 2.0930240544083087, 2.0859634472658639,
    2.0796138447276795, 2.0738730679040254, 2.0686576104190486, 2.0638985616280245,
    2.0595385527532972, 2.0555294386428735, 2.0518305164802846, 2.0484071417952454,
    2.045229642132703,  2.0422724563012378};

/* Beyond the table: the expansion around the normal quantile, Abramowitz and Stegun 26.7.5. */
double mq_student_975(int64_t freedom)
{
    if (freedom <= TABLE) return student_975[freedom - 1];
    const double z = 1.959963984540054, z2 = z * z, v = (double)freedom;
    double g1 = z * (z2 + 1) / 4;
    double g2 = z * ((5 * z2 + 16) * z2 + 3) / 96;
    double g3 = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384;
    double g4 = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92160;
    return z + (g1 + (g2 + (g3 + g4 / v) / v) / v) / v;
}

mq_ratio mq_ratio_of(const double *y, const double *m, int64_t n, int64_t stride)
{
    mq_ratio r = {.value = NAN, .standard_error = NAN, .half_width = NAN};
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += y[i * stride];
        r.tokens += m[i * stride];
        r.documents += m[i * stride] > 0;
    }
    if (r.documents == 0) return r;
    r.value = sum / r.tokens;
    if (r.documents == 1) return r;
    for (int64_t i = 0; i < n; i++) {
        double mi = m[i * stride], moved = (y[i * stride] - r.value * mi) / (r.tokens - mi);
        squares += moved * moved;
    }
    double k = (double)r.documents;
    r.standard_error = sqrt((k - 1) / k * squares);
    r.half_width = mq_student_975(r.documents - 1) * r.standard_error;
    return r;
}
