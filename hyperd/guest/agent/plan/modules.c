#define _GNU_SOURCE
#include "plan/modules.h"

#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "wire/util.h"

/* A line of a list: path, and after a space parameters. */
static void load_module(char *line) {
  const char *path = strsep(&line, " ");
  cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || (syscall(SYS_finit_module, fd, line ? line : "", 0) < 0 && errno != EEXIST))
    logf_("module %s: %s", path, strerror(errno));
  unlink(path); /* its memory is needed more elsewhere */
}

void load_modules(const char *list) {
  char text[8192];
  if (read_small(list, text, sizeof text) < 0)
    return;
  for (char *rest = text, *line; (line = strsep(&rest, "\n"));)
    if (*line)
      load_module(line);
}
