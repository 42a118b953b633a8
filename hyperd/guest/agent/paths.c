#define _GNU_SOURCE
#include "paths.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { MAX_DEPTH = 500 };

int path_open(int root_fd, const char *path, int flags, mode_t mode) {
  flags |= O_CLOEXEC;
  if (root_fd < 0)
    return RETRY(open(path, flags, mode));
  struct open_how how = {.flags = (uint64_t)flags, .mode = mode, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  return (int)RETRY(syscall(SYS_openat2, root_fd, path, &how, sizeof how));
}

/* Make each missing part of a directory's path, from the left. */
static int make_directories(int root_fd, char *path) {
  for (char *at = path + 1;; at++) {
    if (*at && *at != '/')
      continue;
    char kept = *at;
    *at = 0;
    cleanup_fd int fd = path_open(root_fd, path, O_PATH | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOENT) {
      char name[256];
      cleanup_fd int parent = path_parent(root_fd, path, false, name);
      if (parent < 0 || (mkdirat(parent, name, 0755) < 0 && errno != EEXIST))
        return -1;
    } else if (fd < 0) {
      return -1;
    }
    *at = kept;
    if (!kept)
      return 0;
  }
}

int path_parent(int root_fd, const char *path, bool make, char name[256]) {
  char parent[MAX_PATH_TEXT];
  size_t size = strlen(path);
  while (size > 1 && path[size - 1] == '/')
    size--;
  size_t start = size;
  while (start && path[start - 1] != '/')
    start--;
  if (size - start == 0 || size - start > 255 || start >= sizeof parent) {
    errno = size - start ? ENAMETOOLONG : EINVAL;
    return -1;
  }
  memcpy(name, path + start, size - start);
  name[size - start] = 0;
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
    errno = EINVAL;
    return -1;
  }
  memcpy(parent, path, start);
  parent[start] = 0;
  const char *where = start ? parent : ".";
  int fd = path_open(root_fd, where, O_RDONLY | O_DIRECTORY, 0);
  if (fd < 0 && errno == ENOENT && make && start && make_directories(root_fd, parent) == 0)
    fd = path_open(root_fd, where, O_RDONLY | O_DIRECTORY, 0);
  return fd;
}

static int mount_id(int dir_fd, const char *name, int flags, uint64_t *out) {
  struct statx stat;
  if (statx(dir_fd, name, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stat) < 0)
    return -1;
  *out = stat.stx_mnt_id;
  return 0;
}

static bool is_cgroup(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

static int remove_tree(int parent_fd, const char *name, int depth);

static int remove_entries(int fd, int depth) {
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  bool only_directories = is_cgroup(fd); /* the files of a cgroup go with it */
  int result = dir ? 0 : -1;
  for (struct dirent *e; result == 0 && (e = readdir(dir));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (only_directories && e->d_type != DT_DIR))
      continue;
    result = remove_tree(fd, e->d_name, depth + 1);
  }
  int saved = errno;
  if (dir)
    closedir(dir);
  errno = saved;
  return result;
}

static int remove_tree(int parent_fd, const char *name, int depth) {
  uint64_t outside, inside;
  if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
    return 0;
  if (errno == ENOTDIR)
    return unlinkat(parent_fd, name, 0) < 0 && errno != ENOENT ? -1 : 0;
  if (errno != ENOTEMPTY && errno != EEXIST && errno != EBUSY)
    return -1;
  if (depth > MAX_DEPTH) {
    errno = ELOOP;
    return -1;
  }
  cleanup_fd int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || mount_id(parent_fd, "", AT_EMPTY_PATH, &outside) < 0 || mount_id(fd, "", AT_EMPTY_PATH, &inside) < 0)
    return -1;
  if (inside != outside) {
    errno = EBUSY;
    return -1;
  }
  if (remove_entries(fd, depth) < 0)
    return -1;
  return unlinkat(parent_fd, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -1 : 0;
}

int path_remove(int parent_fd, const char *name) { return remove_tree(parent_fd, name, 0); }
