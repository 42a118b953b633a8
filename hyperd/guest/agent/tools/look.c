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
#include <sys/xattr.h>
#include <unistd.h>

#include "tools/tools.h"

enum { MAX_DEPTH = 2048, MAX_STAT = 1024, MAX_COMMAND = 4096 };

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

static bool is_opaque(int fd) {
  char value;
  return fgetxattr(fd, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

static bool is_there(int fd, const char *name, struct stat *s) {
  return fd >= 0 && fstatat(fd, name, s, AT_SYMLINK_NOFOLLOW) == 0;
}

static int append(size_t length, const char *name) {
  int size = snprintf(c.path + length, sizeof c.path - length, "%s%s", length ? "/" : "", name);
  return size < 0 || (size_t)size >= sizeof c.path - length ? -1 : 0;
}

/* Entries of the directory below that an opaque one hides. */
static int hidden(int upper, int lower, size_t length) {
  struct stat s;
  int copy = openat(lower, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  if (!dir)
    return -1;
  for (struct dirent *e; (e = readdir(dir));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || is_there(upper, e->d_name, &s))
      continue;
    if (append(length, e->d_name) == 0 && !left_out())
      tell('D');
  }
  closedir(dir);
  c.path[length] = 0;
  return 0;
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
  bool opaque = low >= 0 && is_opaque(up);
  if (walk(up, low, length, depth + 1, &inner) < 0 || (opaque && hidden(up, low, length) < 0))
    return -1;
  bool differs = !below || opaque || above->st_mode != below->st_mode || above->st_uid != below->st_uid || above->st_gid != below->st_gid;
  if (inner || differs) {
    tell(below ? 'C' : 'A');
    *changed = true;
  }
  return 0;
}

static int walk(int upper, int lower, size_t length, unsigned depth, bool *changed) {
  struct stat above, below;
  int result = 0;
  int copy = openat(upper, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy < 0 || depth > MAX_DEPTH ? NULL : fdopendir(copy);
  if (!dir)
    return -1;
  for (struct dirent *e; result == 0 && (e = readdir(dir));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 || !is_there(upper, e->d_name, &above))
      continue;
    bool was = is_there(lower, e->d_name, &below);
    result = append(length, e->d_name);
    if (result < 0 || left_out()) {
      c.path[length] = 0;
      continue;
    }
    if (S_ISCHR(above.st_mode) && above.st_rdev == makedev(0, 0)) {
      if (was) {
        tell('D');
        *changed = true;
      }
    } else if (S_ISDIR(above.st_mode)) {
      if (was && !S_ISDIR(below.st_mode)) {
        tell('D');
        was = false;
      }
      result = walk_directory(upper, lower, e->d_name, &above, was ? &below : NULL, depth, changed);
    } else {
      tell(was ? 'C' : 'A');
      *changed = true;
    }
    c.path[length] = 0;
  }
  closedir(dir);
  return result;
}

int look_changes(const char *upper, const char *lower, char **skip, int skip_count) {
  bool changed = false;
  cleanup_fd int up = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  cleanup_fd int low = open(lower, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  c.skip = skip;
  c.skip_count = skip_count;
  if (up < 0 || low < 0 || walk(up, low, 0, 0, &changed) < 0)
    return tool_failed("changes %s: %s", c.path, strerror(errno));
  return 0;
}

/* Processes of a control group. */

static ssize_t read_whole(const char *path, char *data, size_t room) {
  cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
  size_t have = 0;
  while (fd >= 0 && have < room - 1) {
    ssize_t count = RETRY(read(fd, data + have, room - 1 - have));
    if (count <= 0)
      break;
    have += (size_t)count;
  }
  data[have] = 0;
  return fd < 0 ? -1 : (ssize_t)have;
}

static void tell_process(long pid) {
  struct stat s;
  char path[64], text[MAX_STAT], command[MAX_COMMAND];
  snprintf(path, sizeof path, "/proc/%ld/stat", pid);
  if (read_whole(path, text, sizeof text) <= 0 || stat(path, &s) < 0)
    return; /* it has ended */
  snprintf(path, sizeof path, "/proc/%ld/cmdline", pid);
  ssize_t size = read_whole(path, command, sizeof command);
  for (ssize_t i = 0; i + 1 < size; i++)
    if (!command[i])
      command[i] = ' ';
  printf("%u %s", s.st_uid, text);
  fputc(0, stdout);
  put(size > 0 ? command : "");
}

int look_processes(const char *group) {
  char path[PATH_MAX];
  long pid;
  snprintf(path, sizeof path, "/sys/fs/cgroup/%s/cgroup.procs", group);
  FILE *file = fopen(path, "re");
  if (!file)
    return tool_failed("top: %s: %s", path, strerror(errno));
  while (fscanf(file, "%ld", &pid) == 1)
    tell_process(pid);
  fclose(file);
  return 0;
}
