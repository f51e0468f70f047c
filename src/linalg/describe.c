#include "linalg/factor.h"

const char *mq_linalg_describe(void)
{
    /* ScaLAPACK cannot be asked for its version; the build passes what pkg-config said. */
#ifdef MQ_SCALAPACK_VERSION
    return "ScaLAPACK " MQ_SCALAPACK_VERSION;
#else
    return "ScaLAPACK";
#endif
}
