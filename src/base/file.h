#ifndef MQ_BASE_FILE_H
#define MQ_BASE_FILE_H

#include "base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/** *out = "folder/name", NUL-terminated; free with mq_free. */
mq_status mq_path_join(const char *folder, const char *name, char **out);

bool mq_file_exists(const char *path);
bool mq_is_folder(const char *path);

/** Whole file as a NUL-terminated text; free with mq_free. `limit` bytes at most.
 *  Errors: MQ_E_IO when it cannot be read, MQ_E_INPUT when longer than limit. */
mq_status mq_read_text(const char *path, size_t limit, char **out, size_t *length);

/** Renames a file within its folder. Errors: MQ_E_IO, saying so where the storage cannot rename. */
mq_status mq_rename(const char *from, const char *to);

/** Writes a whole file under a temporary name, fsyncs it and renames it to `path`. The mode honours
 *  the umask. Errors: MQ_E_IO; nothing is left under `path`, and the temporary name is removed. */
mq_status mq_write_file(const char *path, const void *data, size_t bytes);

/** Reads exactly `bytes` at `offset` with large preads. Errors: MQ_E_IO; MQ_E_INPUT when the file
 *  ends early (`path` names it). */
mq_status mq_pread_all(int fd, const char *path, void *dst, size_t bytes, int64_t offset);

/** Makes the names in a folder durable (fsync of the folder). */
mq_status mq_sync_folder(const char *path);

/** SHA-256 of a file as 64 lower-case hex digits + NUL. */
mq_status mq_sha256_file(const char *path, char hex[65]);

#endif
