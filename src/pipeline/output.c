#include "pipeline/output.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "par/collectives.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN_FILE ".mpiquant-run.json"
#define REPORT_FILE "mq_report.json"

static const size_t json_limit = (size_t)256 << 20;

/* Opens the run file and locks it. The kernel drops an advisory record lock with its process, so it
 * is never stale. */
static mq_status open_run_file(const char *path, int *fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    *fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*fd < 0) return mq_fail(MQ_E_IO, "%s: cannot create: %s", path, mq_errno_text(errno));
    if (fcntl(*fd, F_SETLK, &whole) == 0) return MQ_OK;
    int why = errno;
    if (why == EACCES || why == EAGAIN) {
        close(*fd);
        *fd = -1;
        return mq_fail(MQ_E_BUSY,
                       "%s: locked: another run is writing this output folder; wait for it, or "
                       "choose another --output",
                       path);
    }
    mq_warn("%s: this file system has no locks (%s): make sure that no other run writes here", path,
            mq_errno_text(why));
    return MQ_OK;
}

static bool same_file(int fd, const char *path)
{
    struct stat here, there;
    return fstat(fd, &here) == 0 && stat(path, &there) == 0 && here.st_dev == there.st_dev &&
           here.st_ino == there.st_ino;
}

/* Another run may have finished, and removed its run file, between our open and our lock: then the
 * lock is on a file without a name, and the state of the folder is a new one. */
static mq_status lock_run_file(const char *path, int *fd)
{
    enum { ATTEMPTS = 100 };
    for (int i = 0; i < ATTEMPTS; i++) {
        MQ_TRY(open_run_file(path, fd));
        if (same_file(*fd, path)) return MQ_OK;
        close(*fd);
        *fd = -1;
    }
    return mq_fail(MQ_E_IO, "%s: changes whenever it is opened: cannot lock the output folder",
                   path);
}

/* A run file gets its content only after its run has judged the folder to be its own. An empty one
 * says nothing: its maker was refused, or ended before it could tell. */
static bool is_ours(int fd)
{
    struct stat s;
    return fstat(fd, &s) == 0 && s.st_size > 0;
}

static mq_status refuse_other_setting(const char *path, const char *key, const cJSON *then,
                                      const cJSON *now)
{
    char *a = then ? cJSON_PrintUnformatted(then) : NULL;
    char *b = cJSON_PrintUnformatted(now);
    mq_status status = mq_fail(MQ_E_USAGE,
                               "%s: holds a finished run with another %s (%.200s there, %.200s "
                               "now): choose another --output",
                               path, key, a ? a : "nothing", b ? b : "nothing");
    cJSON_free(a);
    cJSON_free(b);
    return status;
}

/* Numbers are raw text here and were parsed there: both are compared as they print after parsing.
 */
static bool same_value(const cJSON *then, const cJSON *now)
{
    char *text = cJSON_PrintUnformatted(now);
    cJSON *parsed = text ? cJSON_Parse(text) : NULL;
    bool same = then && parsed && cJSON_Compare(then, parsed, 1);
    cJSON_Delete(parsed);
    cJSON_free(text);
    return same;
}

/* The first setting that differs, by name. */
static mq_status compare_settings(const char *path, const cJSON *then, const cJSON *now)
{
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, now)
    {
        const cJSON *old = mq_json_find(then, item->string);
        if (!same_value(old, item)) return refuse_other_setting(path, item->string, old, item);
    }
    return MQ_OK;
}

static mq_status check_finished(const char *path, const char *report_path, const cJSON *settings)
{
    char *text = NULL;
    cJSON *report = NULL;
    mq_status status = mq_read_text(report_path, json_limit, &text, NULL);
    if (status == MQ_OK) status = mq_json_parse(text, report_path, &report);
    if (status == MQ_OK) {
        status = compare_settings(path, mq_json_find(report, "settings"), settings);
    }
    cJSON_Delete(report);
    mq_free(&text);
    return status;
}

static mq_status remove_file(const char *folder, const char *name)
{
    char *path = NULL;
    MQ_TRY(mq_path_join(folder, name, &path));
    mq_status status = MQ_OK;
    if (unlink(path) != 0 && errno != ENOENT) {
        status = mq_fail(MQ_E_IO, "%s: cannot remove what an earlier run left: %s", path,
                         mq_errno_text(errno));
    }
    mq_free(&path);
    return status;
}

static bool is_regular(const char *folder, const char *name)
{
    char path[4096];
    struct stat s;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path && lstat(path, &s) == 0 && S_ISREG(s.st_mode);
}

/* Everything that an unfinished run of ours left: the folder was empty when it began, and files of
 * another model must not end up beside this one's. The report and the index go first: without them
 * nothing claims to be finished or complete. */
static mq_status remove_leftovers(const char *path)
{
    MQ_TRY(remove_file(path, REPORT_FILE));
    MQ_TRY(remove_file(path, "model.safetensors.index.json"));
    DIR *folder = opendir(path);
    if (!folder) return mq_fail(MQ_E_IO, "%s: cannot list: %s", path, mq_errno_text(errno));
    const struct dirent *entry = NULL;
    mq_status status = MQ_OK;
    while (status == MQ_OK && (entry = readdir(folder))) {
        bool kept = strcmp(entry->d_name, RUN_FILE) == 0 || !is_regular(path, entry->d_name);
        if (!kept) status = remove_file(path, entry->d_name);
    }
    closedir(folder);
    return status;
}

/* Empty but for the run file. */
static mq_status is_empty(const char *path, bool *empty)
{
    DIR *folder = opendir(path);
    if (!folder) return mq_fail(MQ_E_IO, "%s: cannot list: %s", path, mq_errno_text(errno));
    const struct dirent *entry = NULL;
    *empty = true;
    while ((entry = readdir(folder))) {
        bool own = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                   strcmp(entry->d_name, RUN_FILE) == 0;
        if (!own) *empty = false;
    }
    closedir(folder);
    return MQ_OK;
}

static mq_status make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return MQ_OK;
    return mq_fail(MQ_E_IO, "%s: cannot create the output folder: %s", path, mq_errno_text(errno));
}

/* What the folder holds, decided under the lock. A report stands only beside complete shards: it is
 * written last and removed first. */
static mq_status judge(const char *path, bool ours, const cJSON *settings, mq_output_state *state)
{
    bool empty = false;
    char *report_path = NULL;
    MQ_TRY(mq_path_join(path, REPORT_FILE, &report_path));
    *state = mq_file_exists(report_path) ? MQ_OUTPUT_FINISHED : MQ_OUTPUT_FRESH;
    mq_status status = MQ_OK;
    if (*state == MQ_OUTPUT_FINISHED) status = check_finished(path, report_path, settings);
    mq_free(&report_path);
    if (*state == MQ_OUTPUT_FINISHED || ours) return status;
    MQ_TRY(is_empty(path, &empty));
    if (empty) return MQ_OK;
    return mq_fail(MQ_E_USAGE,
                   "%s: exists and holds files that no run of mpiquant left there: choose another "
                   "--output",
                   path);
}

static mq_status write_run_file(int fd, const char *path, const cJSON *settings)
{
    char *text = mq_json_print(settings);
    if (!text) return mq_fail(MQ_E_MEMORY, "no memory for %s", path);
    size_t n = strlen(text);
    /* Cut after writing: the file of an unfinished run of ours must never be empty. */
    bool good =
        pwrite(fd, text, n, 0) == (ssize_t)n && ftruncate(fd, (off_t)n) == 0 && fsync(fd) == 0;
    cJSON_free(text);
    return good ? MQ_OK : mq_fail(MQ_E_IO, "%s: cannot write: %s", path, mq_errno_text(errno));
}

static mq_status take_over(const char *path, bool ours, const cJSON *settings,
                           const mq_output *output, const char *run_path)
{
    if (ours) {
        mq_log("%s holds an unfinished run: starting it afresh", path);
        MQ_TRY(remove_leftovers(path));
    }
    return write_run_file(output->lock_fd, run_path, settings);
}

static mq_status open_locked(const char *path, const char *run_path, const cJSON *settings,
                             mq_output_state *state, mq_output *output)
{
    MQ_TRY(lock_run_file(run_path, &output->lock_fd));
    bool ours = is_ours(output->lock_fd);
    mq_status status = judge(path, ours, settings, state);
    if (status == MQ_OK && *state == MQ_OUTPUT_FRESH) {
        return take_over(path, ours, settings, output, run_path);
    }
    /* Finished, or not ours: the folder stays as it was. */
    unlink(run_path);
    return status;
}

/* A finished output may lie where nothing can be written any more. */
static bool is_read_only(const char *path, const char *run_path)
{
    return access(path, W_OK) != 0 && (errno == EACCES || errno == EROFS) &&
           !mq_file_exists(run_path);
}

static mq_status open_at_root(const char *path, const cJSON *settings, mq_output_state *state,
                              mq_output *output)
{
    char *run_path = NULL;
    MQ_TRY(make_folder(path));
    if (!mq_is_folder(path)) {
        return mq_fail(MQ_E_USAGE, "%s: exists and is not a folder: choose another --output", path);
    }
    MQ_TRY(mq_path_join(path, RUN_FILE, &run_path));
    mq_status status = MQ_OK;
    if (is_read_only(path, run_path)) {
        status = judge(path, true, settings, state);
        if (status == MQ_OK && *state == MQ_OUTPUT_FRESH) {
            status = mq_fail(MQ_E_IO, "%s: cannot be written to", path);
        }
    } else {
        status = open_locked(path, run_path, settings, state, output);
    }
    mq_free(&run_path);
    return status;
}

mq_status mq_output_open(const mq_comm *comm, const char *path, const cJSON *settings,
                         mq_output_state *state, mq_output **out)
{
    *out = NULL;
    *state = MQ_OUTPUT_FRESH;
    mq_status status = mq_alloc(1, sizeof **out, "output folder", out);
    if (status == MQ_OK) {
        (*out)->lock_fd = -1;
        status = mq_alloc((int64_t)strlen(path) + 1, 1, "path", &(*out)->path);
    }
    if (status == MQ_OK) memcpy((*out)->path, path, strlen(path) + 1);
    if (status == MQ_OK && comm->rank == 0) status = open_at_root(path, settings, state, *out);
    status = mq_agree(comm, status);
    int64_t shared = *state;
    if (status == MQ_OK) status = mq_agree(comm, mq_bcast(comm, &shared, sizeof shared, 0));
    *state = (mq_output_state)shared;
    if (status != MQ_OK) mq_output_close(out, false);
    return status;
}

mq_status mq_output_write(const mq_comm *comm, const mq_output *output, const char *name,
                          const char *text)
{
    mq_status status = MQ_OK;
    if (comm->rank == 0) {
        char *path = NULL;
        status = mq_path_join(output->path, name, &path);
        if (status == MQ_OK) status = mq_write_file(path, text, strlen(text));
        mq_free(&path);
    }
    return mq_agree(comm, status);
}

void mq_output_close(mq_output **output, bool complete)
{
    if (!*output) return;
    mq_output *o = *output;
    char *run_path = NULL;
    if (complete && o->lock_fd >= 0 && mq_path_join(o->path, RUN_FILE, &run_path) == MQ_OK) {
        unlink(run_path);
        mq_free(&run_path);
    }
    if (o->lock_fd >= 0) close(o->lock_fd);
    mq_free(&o->path);
    mq_free(output);
}
