#include "par/describe.h"

#include <mpi.h>
#include <string.h>

const char *mq_mpi_describe(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (text[0]) return text;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "MPI of unknown version";
    text[strcspn(text, ",\n")] = '\0';
    return text;
}
