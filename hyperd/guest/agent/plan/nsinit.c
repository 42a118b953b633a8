#define _GNU_SOURCE
#include "plan/nsinit.h"

#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/wait.h"

/* Reap everything; exits when the main process was among it. The kernel then kills the rest of the namespace. */
static void reap(pid_t main_pid) {
  int status;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == main_pid)
      _exit(exit_code_of(status));
}

static void pass_on(const siginfo_t *info, pid_t main_pid) {
  /* A sender outside the namespace has no pid inside. */
  if (info->si_signo == SIGNAL_ALL && info->si_code == SI_QUEUE && info->si_pid == 0)
    kill(-1, info->si_value.sival_int);
  else
    kill(main_pid, info->si_signo);
}

void nsinit_run(pid_t main_pid) {
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  prctl(PR_SET_NAME, "hyper-init");
  reap(main_pid); /* it may have ended before the signals were blocked */
  for (;;) {
    siginfo_t info;
    if (sigwaitinfo(&all, &info) < 0)
      continue;
    if (info.si_signo == SIGCHLD)
      reap(main_pid);
    else
      pass_on(&info, main_pid);
  }
}
