#ifndef MQ_BASE_CGROUP_H
#define MQ_BASE_CGROUP_H

#include <stddef.h>

/** The smallest memory limit of the control groups that `membership` (the text of
 *  /proc/self/cgroup) names and of the groups above them, in bytes; SIZE_MAX when there is none.
 *  `mount` is where the groups are mounted (/sys/fs/cgroup); versions 1 and 2. Batch systems put
 *  the limit of a job or a step several levels down. Not collective. */
size_t mq_cgroup_memory_limit(const char *membership, const char *mount);

#endif
