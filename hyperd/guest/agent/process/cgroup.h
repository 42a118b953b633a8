/* Control groups (cgroup v2): making them and entering them. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Where cgroup v2 is mounted. */
extern const char *cgroup_root;

/* Make a group below the root when it is missing, let it have every controller, and enter it. -1 with errno. */
int cgroup_enter(const char *path);
/* Enter a group that exists. -1 with errno. */
int cgroup_join(const char *path);
/* Enter the group below `path` that a process is in. -1 with errno; EBUSY: it is in none. */
int cgroup_follow(const char *path, pid_t pid);
/* Kill everything in a group and below it. -1 with errno. */
int cgroup_kill(const char *path);
/* Whether anything lives in a group or below it. */
bool cgroup_populated(const char *path);
