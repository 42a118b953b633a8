#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "plan/paths.h"
#include "plan/plan.h"

/* Two descriptors a level. */
enum { MAX_DEPTH = 256, MAX_XATTRS = 65536 };

/* Extended attributes that belong to the file; overlayfs keeps its own in trusted. */
static int copy_xattrs(int from, int to) {
  static char names[MAX_XATTRS], value[MAX_XATTRS];
  ssize_t size = flistxattr(from, names, sizeof names);
  if (size < 0)
    return errno == EOPNOTSUPP ? 0 : -1;
  for (char *name = names; name < names + size; name += strlen(name) + 1) {
    if (strncmp(name, "trusted.", 8) == 0)
      continue;
    ssize_t length = fgetxattr(from, name, value, sizeof value);
    if (length < 0 || (fsetxattr(to, name, value, (size_t)length, 0) < 0 && errno != EOPNOTSUPP))
      return -1;
  }
  return 0;
}

/* Owner first: a change of it clears the set-id bits and the capabilities. */
static int copy_attributes(int from, int to, const struct stat *stat) {
  struct timespec times[] = {stat->st_atim, stat->st_mtim};
  if (fchown(to, stat->st_uid, stat->st_gid) < 0 || fchmod(to, stat->st_mode & 07777) < 0 || copy_xattrs(from, to) < 0)
    return -1;
  return futimens(to, times);
}

static int copy_file(int from_dir, int to_dir, const char *name, const struct stat *stat) {
  cleanup_fd int from = openat(from_dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  cleanup_fd int to = from < 0 ? -1 : openat(to_dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return to < 0 || copy_bytes(from, to) < 0 ? -1 : copy_attributes(from, to, stat);
}

static int copy_special(int from_dir, int to_dir, const char *name, const struct stat *stat) {
  char target[MAX_PATH_TEXT];
  if (S_ISLNK(stat->st_mode)) {
    ssize_t size = readlinkat(from_dir, name, target, sizeof target - 1);
    if (size < 0)
      return -1;
    target[size] = 0;
    if (symlinkat(target, to_dir, name) < 0)
      return -1;
  } else if (mknodat(to_dir, name, stat->st_mode, stat->st_rdev) < 0) {
    return -1;
  }
  return fchownat(to_dir, name, stat->st_uid, stat->st_gid, AT_SYMLINK_NOFOLLOW);
}

static int copy_tree(int from, int to, dev_t device, unsigned depth);

static int copy_directory(int from_dir, int to_dir, const char *name, dev_t device, unsigned depth) {
  if (mkdirat(to_dir, name, 0700) < 0)
    return -1;
  cleanup_fd int from = openat(from_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  cleanup_fd int to = openat(to_dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return from < 0 || to < 0 ? -1 : copy_tree(from, to, device, depth);
}

static int copy_entry(int from, int to, const char *name, dev_t device, unsigned depth) {
  struct stat stat;
  if (fstatat(from, name, &stat, AT_SYMLINK_NOFOLLOW) < 0)
    return -1;
  if (S_ISDIR(stat.st_mode))
    return copy_directory(from, to, name, device, depth + 1);
  return S_ISREG(stat.st_mode) ? copy_file(from, to, name, &stat) : copy_special(from, to, name, &stat);
}

/* Copy what is in one directory and its attributes; what is mounted below stays empty. Errors: -1, errno. */
static int copy_tree(int from, int to, dev_t device, unsigned depth) {
  struct stat stat;
  int result = 0;
  if (depth > MAX_DEPTH) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (fstat(from, &stat) < 0)
    return -1;
  int copy = stat.st_dev == device ? openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  for (struct dirent *entry; dir && result == 0 && (entry = readdir(dir));)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
      result = copy_entry(from, to, entry->d_name, device, depth);
  int saved = errno;
  if (dir)
    closedir(dir);
  errno = saved;
  return result < 0 ? -1 : copy_attributes(from, to, &stat);
}

/* Fill an empty directory with the tree at `path` below OPENROOT; what is not there or no directory leaves it empty. */
static int fill(const struct plan *plan, const char *path, int to) {
  struct stat stat;
  cleanup_fd int from = path_open(plan->root_fd, path, O_RDONLY | O_DIRECTORY, 0);
  if (from < 0)
    return errno == ENOENT || errno == ENOTDIR ? fchmod(to, 0755) : -1;
  return fstat(from, &stat) < 0 ? -1 : copy_tree(from, to, stat.st_dev, 0);
}

typedef int make_fn(const struct plan *plan, const char *source, int to);

/* The name appears when everything is there: what was cut off is made again. What is there already stays. */
static int make_whole(const struct plan *plan, const char *path, const char *source, make_fn *make) {
  char name[256], draft[256];
  cleanup_fd int parent = path_parent(-1, path, true, name);
  if (parent < 0)
    return -1;
  if (faccessat(parent, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
    return 0;
  if (snprintf(draft, sizeof draft, "%s.new", name) >= (int)sizeof draft) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (path_remove(parent, draft) < 0 || mkdirat(parent, draft, 0700) < 0)
    return -1;
  cleanup_fd int to = openat(parent, draft, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  return to < 0 || make(plan, source, to) < 0 || renameat(parent, draft, parent, name) < 0 ? -1 : 0;
}

int op_copyup(struct plan *plan, const struct step *step, struct err *e) {
  return make_whole(plan, step->args[1].text, step->args[0].text, fill) < 0 ? step_failed(step, errno, e) : 0;
}

static int resemble(const struct plan *plan, const char *path, int to) {
  struct stat stat;
  (void)plan;
  cleanup_fd int from = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return from < 0 || fstat(from, &stat) < 0 ? -1 : copy_attributes(from, to, &stat);
}

int op_like(struct plan *plan, const struct step *step, struct err *e) {
  return make_whole(plan, step->args[0].text, step->args[1].text, resemble) < 0 ? step_failed(step, errno, e) : 0;
}
