#include "mpiquant/mpiquant.h"

const char *mq_version(void)
{
    return MQ_VERSION;
}
