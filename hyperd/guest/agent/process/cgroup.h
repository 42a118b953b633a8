/* Control groups (cgroup v2): making them and entering them. */
#pragma once

/* Where cgroup v2 is mounted. */
extern const char *cgroup_root;

/* Make a group below the root when it is missing, let it have every controller, and enter it. -1 with errno. */
int cgroup_enter(const char *path);
/* Enter a group that exists. -1 with errno. */
int cgroup_join(const char *path);
/* Send a signal to every process in a group. -1 with errno. */
int cgroup_signal(const char *path, int signal);
