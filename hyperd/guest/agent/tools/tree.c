#define _GNU_SOURCE
#include "tools/tree.h"

#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/xattr.h>
#include <unistd.h>

void tree_prepare(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

bool tree_is_opaque(int fd) {
  char value;
  return fgetxattr(fd, "trusted.overlay.opaque", &value, 1) == 1 && value == 'y';
}

DIR *tree_list(int fd) {
  int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = copy < 0 ? NULL : fdopendir(copy);
  if (!dir)
    close_fd(&copy);
  return dir;
}

struct dirent *tree_next(DIR *dir) {
  struct dirent *e;
  do
    e = readdir(dir);
  while (e && (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0));
  return e;
}

void tree_end(DIR *dir) {
  int saved = errno;
  if (dir)
    closedir(dir);
  errno = saved;
}
