#define _GNU_SOURCE
#include "process/cgroup.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "wire/util.h"

const char *cgroup_root = "/sys/fs/cgroup";

/* Let the children of a cgroup have every controller that it has. */
static void delegate(const char *directory) {
  char path[512], have[256], line[64];
  snprintf(path, sizeof path, "%s/cgroup.controllers", directory);
  if (read_small(path, have, sizeof have) < 0)
    return;
  snprintf(path, sizeof path, "%s/cgroup.subtree_control", directory);
  char *rest = have;
  for (char *name; (name = strsep(&rest, " \n"));)
    if (*name && snprintf(line, sizeof line, "+%s", name) < (int)sizeof line)
      write_small(path, line); /* one that cannot be had is no reason to fail */
}

static bool good_cgroup(const char *path) {
  return *path && *path != '/' && strcmp(path, "..") != 0 && strncmp(path, "../", 3) != 0 && !strstr(path, "/../") &&
         (strlen(path) < 3 || strcmp(path + strlen(path) - 3, "/..") != 0);
}

int cgroup_join(const char *group) {
  char path[512];
  if (snprintf(path, sizeof path, "%s/%s/cgroup.procs", cgroup_root, group) >= (int)sizeof path)
    return errno = ENAMETOOLONG, -1;
  return write_small(path, "0");
}

int cgroup_follow(const char *group, pid_t pid) {
  char path[64], text[1024], *rest = text, *line;
  size_t size = strlen(group);
  snprintf(path, sizeof path, "/proc/%d/cgroup", (int)pid);
  if (read_small(path, text, sizeof text) < 0)
    return -1;
  while ((line = strsep(&rest, "\n"))) {
    if (strncmp(line, "0::/", 4) != 0)
      continue; /* a hierarchy of cgroup v1 */
    line += 4;
    if (strncmp(line, group, size) == 0 && line[size] == '/' && rest)
      return cgroup_join(line);
  }
  return errno = EBUSY, -1;
}

int cgroup_kill(const char *group) {
  char path[512];
  if (snprintf(path, sizeof path, "%s/%s/cgroup.kill", cgroup_root, group) >= (int)sizeof path)
    return errno = ENAMETOOLONG, -1;
  return write_small(path, "1");
}

bool cgroup_populated(const char *group) {
  char path[512], text[256];
  snprintf(path, sizeof path, "%s/%s/cgroup.events", cgroup_root, group);
  return read_small(path, text, sizeof text) >= 0 && strstr(text, "populated 1");
}

int cgroup_enter(const char *wanted) {
  char path[512];
  if (!good_cgroup(wanted) || strlen(wanted) >= 256)
    return errno = EINVAL, -1;
  int at = snprintf(path, sizeof path, "%s", cgroup_root);
  for (const char *part = wanted; part; part = strchr(part, '/')) {
    part += *part == '/';
    delegate(path);
    const char *end = strchr(part, '/');
    at += snprintf(path + at, sizeof path - (size_t)at, "/%.*s", (int)(end ? end - part : (long)strlen(part)), part);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
      return -1;
  }
  return cgroup_join(wanted);
}
