#define _GNU_SOURCE
#include "process/shutdown.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "loop/loop.h"
#include "process/process.h"

enum { KILL_MS = 2000, UNMOUNT_MS = 5000, MAX_MOUNTS = 1024 };

bool hosted;

static enum { S_NONE, S_ASKED, S_KILLED, S_UNMOUNT } stage;
static pid_t unmounter;

static void power_off(void) {
  if (hosted)
    exit(0);
  reboot(RB_POWER_OFF);
  reboot(RB_AUTOBOOT); /* a kernel that cannot switch off: the host treats a reset as the end */
}

/* What has no streams is nobody's program: process 1 of a shared pid namespace, which ends last. */
static bool counts(const struct process *p) { return p->base && p->state != P_EXITED; }

static void signal_everyone(int signal, bool whole_container) {
  struct process *p;
  struct err e;
  TAILQ_FOREACH(p, &processes, link)
    if (counts(p) && p->state == P_RUNNING)
      process_signal(p, signal, whole_container, &e);
}

static bool someone_lives(void) {
  struct process *p;
  TAILQ_FOREACH(p, &processes, link)
    if (counts(p))
      return true;
  return false;
}

/* Runs in a child: a file system that hangs must not keep the power on. */
static void unmount_all(void) {
  static char mounts[262144];
  char *targets[MAX_MOUNTS];
  unsigned count = 0;
  sync();
  if (hosted || read_small("/proc/self/mounts", mounts, sizeof mounts) < 0)
    _exit(0);
  for (char *rest = mounts, *line; (line = strsep(&rest, "\n")) && count < MAX_MOUNTS;) {
    char *at = line;
    strsep(&at, " ");
    char *target = strsep(&at, " ");
    if (target && strcmp(target, "/") != 0)
      targets[count++] = target;
  }
  while (count--)
    umount2(targets[count], UMOUNT_NOFOLLOW);
  sync();
  _exit(0);
}

static void next_stage(struct timer *t);
static struct timer stage_timer = {.due = next_stage};

static void start_unmounting(void) {
  stage = S_UNMOUNT;
  unmounter = fork();
  if (unmounter == 0)
    unmount_all();
  timer_set(&stage_timer, UNMOUNT_MS);
}

static void next_stage(struct timer *t) {
  (void)t;
  if (stage == S_ASKED) {
    stage = S_KILLED;
    signal_everyone(SIGKILL, true);
    timer_set(&stage_timer, KILL_MS);
  } else if (stage == S_KILLED) {
    start_unmounting();
  } else if (stage == S_UNMOUNT) {
    power_off();
  }
}

void shutdown_begin(uint64_t grace_ms) {
  if (stage != S_NONE)
    return;
  stage = S_ASKED;
  signal_everyone(SIGTERM, false);
  timer_set(&stage_timer, grace_ms);
}

void shutdown_work(void) {
  if (stage == S_NONE)
    return;
  if ((stage == S_ASKED || stage == S_KILLED) && !someone_lives())
    start_unmounting();
  if (stage == S_UNMOUNT && unmounter > 0 && kill(unmounter, 0) < 0)
    power_off();
}
