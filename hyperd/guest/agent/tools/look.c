#define _GNU_SOURCE
/* Looking at files and processes of a container: answers on stdout, in pieces that end with a zero byte. */
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "process/cgroup.h"
#include "tools/tools.h"
#include "tools/tree.h"

enum { MAX_STAT = 1024, MAX_COMMAND = 4096 };

static void put(const char *text) { fwrite(text, strlen(text) + 1, 1, stdout); }

static int answer_errno(int number) {
  printf("!%d", number);
  fputc(0, stdout);
  return 0;
}

/* `name` in `directory` below `root`: links on the way are followed inside the root, the last one is not. */
int look_stat(const char *root, const char *directory, const char *name) {
  struct stat s;
  char link[PATH_MAX] = "", real[PATH_MAX] = "";
  if (chroot(root) < 0 || chdir("/") < 0)
    return tool_failed("stat: %s: %s", root, strerror(errno));
  if (chdir(directory) < 0 || lstat(name, &s) < 0)
    return answer_errno(errno);
  if (S_ISLNK(s.st_mode)) {
    ssize_t size = readlink(name, link, sizeof link - 1);
    link[size < 0 ? 0 : size] = 0;
    if (!realpath(name, real))
      real[0] = 0;
  }
  printf("%o %llu %lld %ld", s.st_mode, (unsigned long long)s.st_size, (long long)s.st_mtim.tv_sec, s.st_mtim.tv_nsec);
  fputc(0, stdout);
  put(link);
  put(real);
  return 0;
}

/* What a container has changed. */

static struct {
  char path[PATH_MAX];
  char **skip;
  int skip_count;
} c;

static void tell(char kind) {
  putchar(kind);
  put(c.path);
}

static bool left_out(void) {
  for (int i = 0; i < c.skip_count; i++)
    if (strcmp(c.skip[i], c.path) == 0)
      return true;
  return false;
}

static bool is_there(int fd, const char *name, struct stat *s) {
  return fd >= 0 && fstatat(fd, name, s, AT_SYMLINK_NOFOLLOW) == 0;
}

static int append(size_t length, const char *name) {
  int size = snprintf(c.path + length, sizeof c.path - length, "%s%s", length ? "/" : "", name);
  return size < 0 || (size_t)size >= sizeof c.path - length ? (errno = ENAMETOOLONG, -1) : 0;
}

/* Entries of the directory below that an opaque one hides. */
static int hidden(int upper, int lower, size_t length) {
  struct stat s;
  DIR *dir = tree_list(lower);
  int result = dir ? 0 : -1;
  for (struct dirent *e; result == 0 && (e = tree_next(dir));) {
    if (is_there(upper, e->d_name, &s))
      continue;
    result = append(length, e->d_name);
    if (result == 0 && !left_out())
      tell('D');
  }
  tree_end(dir);
  if (result == 0)
    c.path[length] = 0; /* else it tells where */
  return result;
}

static int walk(int upper, int lower, size_t length, unsigned depth, bool *changed);

static int walk_directory(int upper, int lower, const char *name, const struct stat *above, const struct stat *below,
                          unsigned depth, bool *changed) {
  bool inner = false;
  size_t length = strlen(c.path);
  cleanup_fd int up = openat(upper, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  cleanup_fd int low = below ? openat(lower, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
  if (up < 0 || (below && low < 0))
    return errno == ENOENT ? 0 : -1;
  bool opaque = low >= 0 && tree_is_opaque(up);
  if (walk(up, low, length, depth + 1, &inner) < 0 || (opaque && hidden(up, low, length) < 0))
    return -1;
  bool differs = !below || opaque || above->st_mode != below->st_mode || above->st_uid != below->st_uid || above->st_gid != below->st_gid;
  if (inner || differs) {
    tell(below ? 'C' : 'A');
    *changed = true;
  }
  return 0;
}

/* c.path names an entry of the directory above; `below` is what the image has there, NULL = nothing. */
static int tell_entry(int upper, int lower, const char *name, const struct stat *above, const struct stat *below, unsigned depth,
                      bool *changed) {
  if (S_ISDIR(above->st_mode)) {
    if (below && !S_ISDIR(below->st_mode)) {
      tell('D');
      below = NULL;
    }
    return walk_directory(upper, lower, name, above, below, depth, changed);
  }
  bool gone = S_ISCHR(above->st_mode) && above->st_rdev == makedev(0, 0);
  if (gone && !below)
    return 0;
  tell(gone ? 'D' : below ? 'C' : 'A');
  *changed = true;
  return 0;
}

static int walk(int upper, int lower, size_t length, unsigned depth, bool *changed) {
  struct stat above, below;
  DIR *dir = depth > TREE_DEPTH ? (errno = ENAMETOOLONG, NULL) : tree_list(upper);
  int result = dir ? 0 : -1;
  for (struct dirent *e; result == 0 && (e = tree_next(dir));) {
    if (!is_there(upper, e->d_name, &above))
      continue;
    bool was = is_there(lower, e->d_name, &below);
    result = append(length, e->d_name);
    if (result == 0 && !left_out())
      result = tell_entry(upper, lower, e->d_name, &above, was ? &below : NULL, depth, changed);
    if (result == 0)
      c.path[length] = 0; /* else it tells where */
  }
  tree_end(dir);
  return result;
}

int look_changes(const char *upper, const char *lower, char **skip, int skip_count) {
  bool changed = false;
  tree_prepare();
  cleanup_fd int up = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  cleanup_fd int low = open(lower, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  c.skip = skip;
  c.skip_count = skip_count;
  if (up < 0 || low < 0 || walk(up, low, 0, 0, &changed) < 0)
    return tool_failed("changes %s: %s", c.path, strerror(errno));
  return 0;
}

/* Processes of a control group. */

static void tell_process(long pid) {
  struct stat s;
  char path[64], text[MAX_STAT], command[MAX_COMMAND];
  snprintf(path, sizeof path, "/proc/%ld/stat", pid);
  if (read_small(path, text, sizeof text) <= 0 || stat(path, &s) < 0)
    return; /* it has ended */
  snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
  ssize_t size = read_small(path, command, sizeof command);
  for (ssize_t i = 0; i + 1 < size; i++)
    if (!command[i])
      command[i] = ' ';
  printf("%u %s", s.st_uid, text);
  fputc(0, stdout);
  put(size > 0 ? command : "");
}

/* The processes of one group; of those that share a part of a threaded group nothing is told there. */
static int tell_group(int group) {
  long pid;
  cleanup_fd int fd = openat(group, "cgroup.procs", O_RDONLY | O_CLOEXEC);
  int copy = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
  FILE *file = copy < 0 ? NULL : fdopen(copy, "r");
  if (!file)
    return errno == ENOENT || errno == ENODEV ? 0 : -1; /* it has been removed */
  while (fscanf(file, "%ld", &pid) == 1)
    tell_process(pid);
  fclose(file);
  return 0;
}

/* A container may divide its group: those below belong to it, too. */
static int walk_groups(int group, unsigned depth) {
  DIR *dir = depth > TREE_DEPTH ? (errno = ENAMETOOLONG, NULL) : tree_list(group);
  int result = dir ? tell_group(group) : -1;
  for (struct dirent *e; result == 0 && (e = tree_next(dir));) {
    if (e->d_type != DT_DIR)
      continue;
    cleanup_fd int down = openat(group, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    result = down < 0 ? (errno == ENOENT ? 0 : -1) : walk_groups(down, depth + 1);
  }
  tree_end(dir);
  return result;
}

int look_processes(const char *group) {
  char path[PATH_MAX];
  tree_prepare();
  snprintf(path, sizeof path, "%s/%s", cgroup_root, group);
  cleanup_fd int top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return top < 0 || walk_groups(top, 0) < 0 ? tool_failed("top: %s: %s", path, strerror(errno)) : 0;
}
