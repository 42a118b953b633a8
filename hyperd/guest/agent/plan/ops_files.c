#define _GNU_SOURCE
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "plan/paths.h"
#include "plan/plan.h"
#include "plan/users.h"

static bool octal(const struct arg *arg, uint64_t max, mode_t *out) {
  uint64_t value;
  if (!parse_u64(arg->text, 8, max, &value))
    return false;
  *out = (mode_t)value;
  return true;
}

/* The pair of owner arguments at `index`; absent = keep. */
static bool owner(const struct step *step, unsigned index, uid_t *uid, gid_t *gid) {
  uint64_t u, g;
  if (step->count < index + 2)
    return step->count <= index;
  if (!parse_u64(step->args[index].text, 10, UINT32_MAX - 1, &u) ||
      !parse_u64(step->args[index + 1].text, 10, UINT32_MAX - 1, &g))
    return false;
  *uid = (uid_t)u;
  *gid = (gid_t)g;
  return true;
}

int op_mkdir(struct plan *plan, const struct step *step, struct err *e) {
  mode_t mode;
  uid_t uid = (uid_t)-1;
  gid_t gid = (gid_t)-1;
  if (!octal(&step->args[1], 07777, &mode) || !owner(step, 2, &uid, &gid))
    return step_failed(step, EINVAL, e);
  cleanup_fd int existing = path_open(plan->root_fd, step->args[0].text, O_PATH | O_DIRECTORY, 0);
  if (existing >= 0)
    return 0;
  cleanup_fd int made = path_make(plan->root_fd, step->args[0].text, true, mode);
  if (made < 0)
    return step_failed(step, errno, e);
  if (uid != (uid_t)-1 && fchownat(made, "", uid, gid, AT_EMPTY_PATH) < 0)
    return step_failed(step, errno, e);
  return 0;
}

/* Open a file to be written whole. O_NONBLOCK: a FIFO in an image must not hold us. */
static int open_for_write(const struct plan *plan, const char *path, bool create, mode_t mode) {
  int flags = O_WRONLY | O_TRUNC | O_NONBLOCK | (create ? O_CREAT : 0);
  char name[256];
  int fd = path_open(plan->root_fd, path, flags, create ? mode : 0);
  if (fd >= 0 || errno != ENOENT || !create)
    return fd;
  cleanup_fd int parent = path_parent(plan->root_fd, path, true, name);
  if (parent < 0)
    return -1;
  fd = path_open(plan->root_fd, path, flags, mode);
  if (fd >= 0 || errno != ENOENT)
    return fd;
  /* A link to nowhere: the file takes its place. */
  if (unlinkat(parent, name, 0) < 0)
    return -1;
  return openat(parent, name, flags | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode);
}

/* What WRITE and FILE say of the file: mode, user, group. */
struct file_kind {
  bool create;
  mode_t mode;
  uint32_t uid, gid;
};

static int read_kind(const struct plan *plan, const struct step *step, unsigned index, struct file_kind *out, struct err *e) {
  const struct arg *args = step->args + index;
  out->create = strcmp(args[0].text, "-") != 0;
  if (out->create && !octal(&args[0], 07777, &out->mode))
    return step_failed(step, EINVAL, e);
  if (users_owner(plan->root_fd, args[1].text, false, &out->uid) < 0)
    return err_set(e, ENOENT, "%s: no user %.100s in /etc/passwd", step->name, args[1].text);
  if (users_owner(plan->root_fd, args[2].text, true, &out->gid) < 0)
    return err_set(e, ENOENT, "%s: no group %.100s in /etc/group", step->name, args[2].text);
  return 0;
}

static int dress(int fd, const struct file_kind *kind) {
  return kind->create && (fchown(fd, kind->uid, kind->gid) < 0 || fchmod(fd, kind->mode) < 0) ? -1 : 0;
}

int op_write(struct plan *plan, const struct step *step, struct err *e) {
  struct file_kind kind = {0};
  if (read_kind(plan, step, 1, &kind, e) < 0)
    return -1;
  cleanup_fd int fd = open_for_write(plan, step->args[0].text, kind.create, kind.mode);
  if (fd < 0 || write_all(fd, step->args[4].text, step->args[4].size) < 0 || dress(fd, &kind) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_append(struct plan *plan, const struct step *step, struct err *e) {
  cleanup_fd int fd = path_open(plan->root_fd, step->args[0].text, O_WRONLY | O_APPEND | O_NONBLOCK | O_NOFOLLOW, 0);
  if (fd < 0 || write_all(fd, step->args[1].text, step->args[1].size) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_file(struct plan *plan, const struct step *step, struct err *e) {
  struct file_kind kind = {0};
  if (read_kind(plan, step, 2, &kind, e) < 0)
    return -1;
  cleanup_fd int from = open(step->args[0].text, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (from < 0)
    return step_failed(step, errno, e);
  cleanup_fd int to = open_for_write(plan, step->args[1].text, kind.create, kind.mode);
  if (to < 0 || copy_bytes(from, to) < 0 || dress(to, &kind) < 0)
    return err_reason(e, errno, "FILE %.300s", step->args[1].text);
  return 0;
}

int op_symlink(struct plan *plan, const struct step *step, struct err *e) {
  char name[256];
  cleanup_fd int parent = path_parent(plan->root_fd, step->args[1].text, true, name);
  if (parent < 0)
    return step_failed(step, errno, e);
  const char *target = step->args[0].text;
  if (symlinkat(target, parent, name) == 0)
    return 0;
  if (errno != EEXIST || unlinkat(parent, name, 0) < 0 || symlinkat(target, parent, name) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_mknod(struct plan *plan, const struct step *step, struct err *e) {
  char name[256];
  mode_t mode;
  uint64_t major, minor;
  if (!octal(&step->args[1], 0177777, &mode) || !parse_u64(step->args[2].text, 10, 4095, &major) ||
      !parse_u64(step->args[3].text, 10, 1048575, &minor))
    return step_failed(step, EINVAL, e);
  cleanup_fd int parent = path_parent(plan->root_fd, step->args[0].text, true, name);
  if (parent < 0)
    return step_failed(step, errno, e);
  if (mknodat(parent, name, mode, makedev((unsigned)major, (unsigned)minor)) < 0 && errno != EEXIST)
    return step_failed(step, errno, e);
  return 0;
}

int op_remove(struct plan *plan, const struct step *step, struct err *e) {
  char name[256];
  cleanup_fd int parent = path_parent(plan->root_fd, step->args[0].text, false, name);
  if (parent < 0)
    return errno == ENOENT ? 0 : step_failed(step, errno, e);
  return path_remove(parent, name) < 0 ? step_failed(step, errno, e) : 0;
}

int op_openroot(struct plan *plan, const struct step *step, struct err *e) {
  close_fd(&plan->root_fd);
  if (!step->args[0].text[0])
    return 0;
  plan->root_fd = open(step->args[0].text, O_PATH | O_DIRECTORY | O_CLOEXEC);
  return plan->root_fd < 0 ? step_failed(step, errno, e) : 0;
}
