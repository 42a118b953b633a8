#define _GNU_SOURCE
#include "plan/paths.h"

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

/* How often a way is tried again. The kernel gives a way with ".." up (EAGAIN) when anything was renamed or mounted
 * meanwhile, wherever that is; what runs in a container can rename for ever. */
#define TRIES 1000

int path_open(int root_fd, const char *path, int flags, mode_t mode) {
  flags |= O_CLOEXEC;
  if (root_fd < 0)
    return RETRY(open(path, flags, mode));
  struct open_how how = {.flags = (uint64_t)flags, .mode = mode, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
  int fd = -1;
  for (int tries = 0; tries < TRIES; tries++) {
    fd = (int)RETRY(syscall(SYS_openat2, root_fd, path, &how, sizeof how));
    if (fd >= 0 || errno != EAGAIN)
      break;
  }
  return fd;
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

/* Put `first` and what is left of a path together in front of it. */
static int prepend(char *rest, size_t size, const char *first, const char *left) {
  char joined[2 * MAX_PATH_TEXT];
  int length = snprintf(joined, sizeof joined, "%s/%s", first, left);
  if (length < 0 || (size_t)length >= size)
    return errno = ENAMETOOLONG, -1;
  memcpy(rest, joined, (size_t)length + 1);
  return 0;
}

/* Read the link at a path without links; 0 = it is none. */
static ssize_t read_link(int root_fd, const char *path, char *out, size_t size) {
  cleanup_fd int fd = path_open(root_fd, path, O_PATH | O_NOFOLLOW, 0);
  ssize_t length = fd < 0 ? 0 : readlinkat(fd, "", out, size - 1);
  if (length > 0)
    out[length] = 0;
  return length > 0 ? length : 0;
}

int path_real(int root_fd, const char *path, char out[MAX_PATH_TEXT]) {
  char rest[MAX_PATH_TEXT], link[MAX_PATH_TEXT], part[256];
  unsigned links = 0;
  size_t used = 0;
  if (strlen(path) >= sizeof rest)
    return errno = ENAMETOOLONG, -1;
  strcpy(rest, path);
  out[0] = 0;
  for (char *at = rest + strspn(rest, "/"); *at; at += strspn(at, "/")) {
    size_t length = strcspn(at, "/");
    if (length >= sizeof part || used + length + 2 > MAX_PATH_TEXT)
      return errno = ENAMETOOLONG, -1;
    memcpy(part, at, length);
    part[length] = 0;
    at += length;
    if (strcmp(part, ".") == 0)
      continue;
    if (strcmp(part, "..") == 0) {
      while (used && out[--used] != '/')
        continue;
      out[used] = 0;
      continue;
    }
    size_t before = used;
    used += (size_t)sprintf(out + used, "/%s", part);
    if (!read_link(root_fd, out, link, sizeof link))
      continue;
    if (++links > 40)
      return errno = ELOOP, -1;
    used = *link == '/' ? 0 : before;
    out[used] = 0;
    if (prepend(rest, sizeof rest, link, at) < 0)
      return -1;
    at = rest;
  }
  if (!used)
    strcpy(out, "/");
  return 0;
}

int path_make(int root_fd, const char *path, bool directory, mode_t mode) {
  char real[MAX_PATH_TEXT], name[256];
  int fd = path_open(root_fd, path, O_PATH | (directory ? O_DIRECTORY : 0), 0);
  if (fd >= 0 || errno != ENOENT)
    return fd;
  if (path_real(root_fd, path, real) < 0)
    return -1;
  cleanup_fd int parent = path_parent(root_fd, real, true, name);
  if (parent < 0)
    return -1;
  cleanup_fd int made = -1;
  if (directory ? mkdirat(parent, name, mode) < 0
                : (made = openat(parent, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, mode)) < 0)
    if (errno != EEXIST)
      return -1;
  return path_open(root_fd, real, O_PATH | (directory ? O_DIRECTORY : 0), 0);
}

int path_mount_id(int dir_fd, const char *name, int flags, uint64_t *out) {
  struct statx stat;
  if (statx(dir_fd, name, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &stat) < 0)
    return -1;
  if (!(stat.stx_mask & STATX_MNT_ID))
    return errno = ENOSYS, -1; /* a kernel before Linux 5.8 */
  *out = stat.stx_mnt_id;
  return 0;
}

static bool is_cgroup(int fd) {
  struct statfs fs;
  return fstatfs(fd, &fs) == 0 && fs.f_type == CGROUP2_SUPER_MAGIC;
}

/* The directories above the one that is being emptied. Trees can be deeper than descriptors and stack reach: up is "..". */
struct level {
  struct level *up;
  dev_t device;
  ino_t inode; /* of the directory that holds `name` */
  char name[256];
};

static int push(struct level **top, int fd, const char *name) {
  struct stat stat_fd;
  struct level *level = malloc(sizeof *level);
  if (!level || fstat(fd, &stat_fd) < 0) {
    free(level);
    return -1;
  }
  *level = (struct level){*top, stat_fd.st_dev, stat_fd.st_ino, ""};
  snprintf(level->name, sizeof level->name, "%s", name);
  *top = level;
  return 0;
}

static void pop(struct level **top) {
  struct level *level = *top;
  *top = level->up;
  free(level);
}

/* Remove what is not a full directory; 1 = it is one. */
static int remove_plain(int fd, const char *name) {
  if (unlinkat(fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
    return 0;
  if (errno == ENOTDIR)
    return unlinkat(fd, name, 0) < 0 && errno != ENOENT ? -1 : 0;
  return errno == ENOTEMPTY || errno == EEXIST || errno == EBUSY ? 1 : -1;
}

/* Remove the plain entries of a directory; 1 = `name` is a full directory to go into, 0 = nothing is left. */
static int remove_entries(int fd, char name[256]) {
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  bool only_directories = is_cgroup(fd); /* the files of a cgroup go with it */
  int result = dir ? 0 : -1;
  for (struct dirent *e; result == 0 && (e = readdir(dir));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || (only_directories && e->d_type != DT_DIR))
      continue;
    result = remove_plain(fd, e->d_name);
    snprintf(name, 256, "%s", e->d_name);
  }
  int saved = errno;
  if (dir)
    closedir(dir);
  errno = saved;
  return result;
}

/* Exchange *fd for the directory `name` in it, unless that is on another mount. */
static int go_down(int *fd, const char *name) {
  uint64_t outside, inside;
  int down = openat(*fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (down < 0 || path_mount_id(*fd, "", AT_EMPTY_PATH, &outside) < 0 || path_mount_id(down, "", AT_EMPTY_PATH, &inside) < 0) {
    close_fd(&down);
    return -1;
  }
  if (inside != outside) {
    close_fd(&down);
    errno = EBUSY;
    return -1;
  }
  close_fd(fd);
  *fd = down;
  return 0;
}

/* Exchange *fd for the directory above, and remove the empty one. */
static int go_up(int *fd, const struct level *level) {
  struct stat stat_up;
  int up = openat(*fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (up < 0 || fstat(up, &stat_up) < 0) {
    close_fd(&up);
    return -1;
  }
  close_fd(fd);
  *fd = up;
  if (stat_up.st_dev != level->device || stat_up.st_ino != level->inode) {
    errno = ESTALE; /* somebody moved the tree meanwhile */
    return -1;
  }
  return unlinkat(up, level->name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -1 : 0;
}

int path_remove(int parent_fd, const char *name) {
  struct level *top = NULL;
  char entry[256];
  int result = remove_plain(parent_fd, name);
  if (result <= 0)
    return result;
  int fd = openat(parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  snprintf(entry, sizeof entry, "%s", name);
  result = fd < 0 ? -1 : 1;
  while (result > 0 || (result == 0 && top)) {
    if (result > 0) {
      result = push(&top, fd, entry) < 0 || go_down(&fd, entry) < 0 ? -1 : 0;
    } else {
      result = go_up(&fd, top);
      pop(&top);
      if (result == 0 && !top)
        break;
    }
    if (result == 0)
      result = remove_entries(fd, entry);
  }
  while (top)
    pop(&top);
  close_fd(&fd);
  return result;
}
