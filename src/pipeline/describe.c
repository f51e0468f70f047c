#include "mpiquant/mpiquant.h"

#include "linalg/factor.h"
#include "ops/ops.h"
#include "par/describe.h"

#include <stdio.h>

const char *mq_build_description(void)
{
    static char text[1024];
    snprintf(text, sizeof text, "%s, %s, %s", mq_mpi_describe(), mq_ops_describe(),
             mq_linalg_describe());
    return text;
}
