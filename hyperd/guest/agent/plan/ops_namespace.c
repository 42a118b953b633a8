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

#include "loop/status.h"
#include "plan/plan.h"
#include "process/cgroup.h"

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
    status_send(plan->status_fd, M_WAITED, text, (size_t)size, &pidfd, 1);
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

/* A container that may divides its group (systemd, Docker in it). The kernel then lets no process in but at the ends: a new
 * one goes where process 1 of the container is, as with runc. */
static int join_cgroup(const struct plan_start *start) {
  if (cgroup_join(start->join_cgroup) == 0)
    return 0;
  return errno == EBUSY ? cgroup_follow(start->join_cgroup, start->join_pid) : -1;
}

int op_join(struct plan *plan, const struct step *step, struct err *e) {
  if (!plan->start)
    return err_set(e, EINVAL, "JOIN: only for START");
  if (plan->start->join_cgroup[0] && join_cgroup(plan->start) < 0)
    return step_failed(step, errno, e);
  prctl(PR_SET_DUMPABLE, 0);
  if (setns(FD_JOIN, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP) < 0)
    return step_failed(step, errno, e);
  return continue_in_child(plan, e);
}

/* Of a running process only the pid namespace. The child is in it, and in the cgroup that this one has entered. */
int op_pidns(struct plan *plan, const struct step *step, struct err *e) {
  if (!plan->start)
    return err_set(e, EINVAL, "PIDNS: only for START");
  prctl(PR_SET_DUMPABLE, 0);
  if (setns(FD_JOIN, CLONE_NEWPID) < 0)
    return step_failed(step, errno, e);
  return continue_in_child(plan, e);
}

int op_cgroup(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  return cgroup_enter(step->args[0].text) < 0 ? step_failed(step, errno, e) : 0;
}

/* The program is process 1 of its namespace: nothing reaps or passes signals on for it. */
int op_first(struct plan *plan, const struct step *step, struct err *e) {
  (void)step, (void)e;
  plan->is_first = true;
  return 0;
}
