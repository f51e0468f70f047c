/* What a program that uses the installed library looks like: here one that forgets the model. */
#include <mpiquant/mpiquant.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    mq_quantize_options options;
    MPI_Init(&argc, &argv);
    mq_quantize_defaults(&options);
    mq_status status = mq_quantize(MPI_COMM_WORLD, &options);
    printf("%s, %s: %s\n", mq_version(), mq_status_name(status), mq_message());
    MPI_Finalize();
    return 0;
}
