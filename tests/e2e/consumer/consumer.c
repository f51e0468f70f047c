/* What a program that uses the installed library looks like. */
#include <mpiquant/mpiquant.h>
#include <stdio.h>

int main(void)
{
    printf("%s, %s %d\n", mq_version(), mq_status_name(MQ_E_IO), mq_exit_code(MQ_E_IO));
    return 0;
}
