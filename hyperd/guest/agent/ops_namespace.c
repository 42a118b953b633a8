#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jobs.h"
#include "plan.h"
#include "process.h"

/* Go on in a new child, which is the agent's child too; this process ends. The agent knows of it before it does anything. */
static int continue_in_child(struct plan *plan, struct err *e) {
  int told[2], pidfd = -1;
  if (pipe2(told, O_CLOEXEC) < 0)
    return err_reason(e, errno, "pipe");
  long pid = syscall(SYS_clone, (unsigned long)(CLONE_PARENT | CLONE_PIDFD | SIGCHLD), NULL, &pidfd, NULL, 0UL);
  if (pid < 0)
    return err_reason(e, errno, "clone");
  if (pid > 0) {
    char text[24];
    int size = snprintf(text, sizeof text, "%ld", pid);
    job_send(plan->status_fd, M_WAITED, text, (size_t)size, &pidfd, 1);
    _exit(0);
  }
  char byte;
  close(told[1]);
  (void)!RETRY(read(told[0], &byte, 1));
  close(told[0]);
  return 0;
}

int op_unshare(struct plan *plan, const struct step *step, struct err *e) {
  static const struct {
    const char *name;
    int flag;
  } KINDS[] = {{"mnt", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"cgroup", CLONE_NEWCGROUP}};
  int flags = 0;
  for (unsigned i = 0; i < step->count; i++) {
    int flag = 0;
    for (unsigned k = 0; k < 3; k++)
      if (strcmp(step->args[i].text, KINDS[k].name) == 0)
        flag = KINDS[k].flag;
    if (!flag)
      return err_set(e, EINVAL, "UNSHARE %.100s: not known", step->args[i].text);
    flags |= flag;
  }
  if (unshare(flags) < 0)
    return step_failed(step, errno, e);
  if ((flags & CLONE_NEWNS) && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
    return step_failed(step, errno, e);
  plan->own_mounts |= flags & CLONE_NEWNS;
  /* From here on processes inside could look at this one. */
  prctl(PR_SET_DUMPABLE, 0);
  if (!(flags & CLONE_NEWPID))
    return 0;
  if (continue_in_child(plan, e) < 0)
    return -1;
  plan->in_init = true;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  return 0;
}

int op_join(struct plan *plan, const struct step *step, struct err *e) {
  if (!plan->start)
    return err_set(e, EINVAL, "JOIN: only for START");
  if (plan->start->join_cgroup[0]) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s/cgroup.procs", cgroup_root, plan->start->join_cgroup);
    if (write_small(path, "0") < 0)
      return step_failed(step, errno, e);
  }
  prctl(PR_SET_DUMPABLE, 0);
  if (setns(FD_JOIN, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP) < 0)
    return step_failed(step, errno, e);
  return continue_in_child(plan, e);
}

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

int op_cgroup(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  char path[512];
  const char *wanted = step->args[0].text;
  if (!good_cgroup(wanted) || step->args[0].size >= 256)
    return step_failed(step, EINVAL, e);
  int at = snprintf(path, sizeof path, "%s", cgroup_root);
  for (const char *part = wanted; part; part = strchr(part, '/')) {
    part += *part == '/';
    delegate(path);
    const char *end = strchr(part, '/');
    at += snprintf(path + at, sizeof path - (size_t)at, "/%.*s", (int)(end ? end - part : (long)strlen(part)), part);
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
      return step_failed(step, errno, e);
  }
  snprintf(path + at, sizeof path - (size_t)at, "/cgroup.procs");
  return write_small(path, "0") < 0 ? step_failed(step, errno, e) : 0;
}
