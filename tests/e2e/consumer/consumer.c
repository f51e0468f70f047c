/* What a program that uses the installed library looks like. */
#include <mpiquant/status.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    printf("%s %d\n", mq_status_name(MQ_E_IO), mq_exit_code(MQ_E_IO));
    return strlen(mq_message()) == 0 ? 0 : 1;
}
