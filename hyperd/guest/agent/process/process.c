#define _GNU_SOURCE
#include "process/process.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "process/cgroup.h"
#include "process/wait.h"

struct process_list processes = TAILQ_HEAD_INITIALIZER(processes);

static unsigned process_count;

struct process *process_find(const char *name) {
  struct process *p;
  TAILQ_FOREACH(p, &processes, link)
    if (strcmp(p->name, name) == 0)
      return p;
  return NULL;
}

static bool good_name(const char *name) {
  size_t size = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-");
  return size > 0 && size <= MAX_NAME && !name[size];
}

static bool streams_free(uint32_t base) {
  struct process *p;
  if (base > UINT32_MAX - 2)
    return false;
  TAILQ_FOREACH(p, &processes, link)
    if (p->base && base < p->base + 3 && p->base < base + 3)
      return false;
  return true;
}

struct process *process_new(const char *name, uint32_t base, struct err *e) {
  if (!good_name(name))
    return err_set(e, EINVAL, "PROCESS: bad process id"), NULL;
  if (process_find(name))
    return err_set(e, EEXIST, "PROCESS %s: exists already", name), NULL;
  if (base && !streams_free(base))
    return err_set(e, EEXIST, "STREAMS %u: in use", base), NULL;
  if (process_count >= MAX_PROCESSES)
    return err_set(e, EAGAIN, "PROCESS %s: too many processes", name), NULL;
  struct process *p = calloc(1, sizeof *p);
  if (!p)
    return err_set(e, ENOMEM, "PROCESS %s: no memory", name), NULL;
  snprintf(p->name, sizeof p->name, "%s", name);
  p->base = base;
  p->main_fd = p->init_fd = p->left_watch.fd = -1;
  memory_init(&p->memory);
  for (int i = 0; i < 3; i++)
    p->streams[i].watch.fd = -1;
  TAILQ_INSERT_TAIL(&processes, p, link);
  process_count++;
  return p;
}

static void close_living(struct process *p) {
  int left = p->left_watch.fd;
  memory_forget(&p->memory);
  loop_remove(&p->left_watch);
  close_fd(&left);
  close_fd(&p->main_fd);
  close_fd(&p->init_fd);
}

void process_remove(struct process *p) {
  close_living(p);
  TAILQ_REMOVE(&processes, p, link);
  process_count--;
  for (int i = 0; i < 3; i++)
    stream_close(&p->streams[i]);
  free(p->user);
  p->user = NULL;
  loop_free_later(p);
}

/* Of a pid namespace of its own the kernel ends everything with process 1. In a shared one the cgroup says who is left. */

static void left_event(struct watch *w, uint32_t events) {
  (void)events;
  struct process *p = (struct process *)((char *)w - offsetof(struct process, left_watch));
  if (!cgroup_populated(p->cgroup))
    process_ended(p, exit_code_of(p->wait_status));
}

/* Kill what the main process has left; true = it has not ended yet. */
static bool ends_later(struct process *p) {
  char path[400];
  if (!p->shares_pids || cgroup_kill(p->cgroup) < 0)
    return false;
  snprintf(path, sizeof path, "%s/%s/cgroup.events", cgroup_root, p->cgroup);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return false;
  p->left_watch = (struct watch){fd, left_event};
  if (loop_add(&p->left_watch, EPOLLPRI) < 0) {
    p->left_watch.fd = -1;
    close(fd);
    return false;
  }
  return cgroup_populated(p->cgroup);
}

static void main_gone(struct process *p) {
  p->on_reaped = NULL;
  if (!ends_later(p))
    process_ended(p, exit_code_of(p->wait_status));
}

void process_started(struct process *p) {
  p->on_reaped = NULL;
  p->state = P_RUNNING;
  if (p->reaped)
    main_gone(p);
  else if (p->cgroup[0])
    memory_watch(&p->memory, p->cgroup);
}

void process_ended(struct process *p, int code) {
  memory_count(&p->memory);
  p->on_reaped = NULL;
  p->state = P_EXITED;
  p->code = code;
  p->finished_ns = realtime_ns();
  p->finished_ms = now_ms();
  p->exit_due = true;
  close_living(p);
  for (int i = 0; i < 3; i++)
    stream_orphan(&p->streams[i]);
}

void process_reaped(pid_t pid, int status) {
  struct process *p;
  TAILQ_FOREACH(p, &processes, link) {
    if (p->waited_pid != pid || p->reaped)
      continue;
    p->reaped = true;
    p->wait_status = status;
    if (p->on_reaped)
      p->on_reaped(p);
    else
      main_gone(p);
    return;
  }
}

static int send_signal(int pidfd, int signal, siginfo_t *info) {
  return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, info, 0);
}

int process_signal(struct process *p, int signal, bool everyone, struct err *e) {
  if (p->state == P_EXITED)
    return err_set(e, ESRCH, "SIGNAL %s: has exited", p->name);
  if (p->state == P_STARTING)
    return err_set(e, EBUSY, "SIGNAL %s: is being started", p->name);
  int result;
  if (everyone && p->shares_pids) {
    result = signal == SIGKILL ? cgroup_kill(p->cgroup) : (errno = ENOTSUP, -1);
  } else if (everyone && p->has_init && p->is_first) {
    /* No init of ours is there to pass it on. Of KILL for process 1 the kernel ends the others. */
    result = signal == SIGKILL ? send_signal(p->init_fd, signal, NULL) : (errno = ENOTSUP, -1);
  } else if (everyone && p->has_init) {
    siginfo_t info = {.si_signo = SIGNAL_ALL, .si_code = SI_QUEUE};
    info.si_value.sival_int = signal;
    result = send_signal(p->init_fd, signal ? SIGNAL_ALL : 0, signal ? &info : NULL);
  } else if (everyone) {
    /* Every process leads a session of its own; as long as it is not reaped, its number is its own. */
    result = p->reaped ? (errno = ESRCH, -1) : kill(-p->main_pid, signal);
  } else {
    result = send_signal(p->main_fd, signal, NULL);
  }
  return result < 0 ? err_reason(e, errno, "SIGNAL %s", p->name) : 0;
}
