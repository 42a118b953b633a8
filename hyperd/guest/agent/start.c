#define _GNU_SOURCE
#include "start.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control.h"
#include "loop/status.h"
#include "plan/plan.h"
#include "process/jobs.h"
#include "process/process.h"

/* The pipes of a process that has no terminal: [0] ours, [1] the child's. */
struct pipes {
  int in[2], out[2], err[2];
};

struct order {
  struct plan_bytes *plan;
  struct plan_start start;
};

static void close_pipes(struct pipes *p) {
  for (int i = 0; i < 2; i++) {
    close_fd(&p->in[i]);
    close_fd(&p->out[i]);
    close_fd(&p->err[i]);
  }
}

static int make_pipe(int ends[2], bool to_child) {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) < 0)
    return -1;
  ends[0] = fds[to_child ? 1 : 0];
  ends[1] = fds[to_child ? 0 : 1];
  return fcntl(ends[0], F_SETFL, fcntl(ends[0], F_GETFL) | O_NONBLOCK);
}

static int attach(struct process *p, enum stream_kind kind, int ends[2]) {
  if (stream_attach(&p->streams[kind], ends[0], false) < 0)
    return -1;
  ends[0] = -1;
  return 0;
}

static int make_streams(struct process *p, struct pipes *pipes, struct err *e) {
  if (!p->base)
    return 0;
  if (stream_open(&p->streams[S_IN], S_IN, p->base, !p->input_open) < 0 ||
      stream_open(&p->streams[S_OUT], S_OUT, p->base + 1, false) < 0 ||
      (!p->tty && stream_open(&p->streams[S_ERR], S_ERR, p->base + 2, false) < 0))
    return err_set(e, ENOMEM, "STREAMS %u: no memory", p->base);
  if (p->tty)
    return 0;
  if (make_pipe(pipes->out, false) < 0 || make_pipe(pipes->err, false) < 0 || attach(p, S_OUT, pipes->out) < 0 ||
      attach(p, S_ERR, pipes->err) < 0)
    return err_reason(e, errno, "STREAMS %u", p->base);
  if (p->input_open && (make_pipe(pipes->in, true) < 0 || attach(p, S_IN, pipes->in) < 0))
    return err_reason(e, errno, "STREAMS %u", p->base);
  return 0;
}

/* JOIN: the child needs the namespaces of a living process, and its cgroup. */
static int find_joined(const struct plan_brief *brief, struct plan_start *start, struct err *e) {
  if (!brief->join[0])
    return 0;
  struct process *target = process_find(brief->join);
  if (!target || target->state != P_RUNNING || target->reaped)
    return err_set(e, ESRCH, "JOIN %s: does not run", brief->join);
  start->join_fd = target->init_fd >= 0 ? target->init_fd : target->main_fd;
  start->join_pid = target->waited_pid;
  memcpy(start->join_cgroup, target->cgroup, sizeof start->join_cgroup);
  return 0;
}

/* What the child tells. */

static void take_waited(struct process *p, const char *text, int *fd) {
  uint64_t pid;
  if (!parse_u64(text, 10, INT32_MAX, &pid) || p->init_fd >= 0)
    return;
  p->waited_pid = (pid_t)pid;
  p->init_fd = *fd;
  *fd = -1;
}

static void take_terminal(struct process *p, int *fd, struct err *e) {
  fcntl(*fd, F_SETFL, O_RDWR | O_NONBLOCK);
  int copy = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0 || stream_attach(&p->streams[S_OUT], *fd, true) < 0)
    err_reason(e, errno, "TTY");
  else
    *fd = -1;
  if (p->input_open && copy >= 0 && stream_attach(&p->streams[S_IN], copy, true) == 0)
    copy = -1;
  close_fd(&copy);
}

static void take_main(struct job *job, struct process *p, pid_t pid, const char *user, int *fds) {
  if (p->main_fd >= 0 || fds[0] < 0)
    return;
  p->main_pid = pid;
  p->user = strdup(user);
  p->main_fd = fds[0];
  fds[0] = -1;
  if (p->tty && fds[1] >= 0)
    take_terminal(p, &fds[1], &job->error);
}

static void take_message(struct job *job, char type, const char *text, pid_t sender, int *fds) {
  if (type == M_WAITED)
    take_waited(job->owner, text, &fds[0]);
  else if (type == M_MAIN)
    take_main(job, job->owner, sender, text, fds);
}

/* The end of a START. */

static bool answerable(const struct job *job) { return control_port.generation == job->generation; }

/* It failed and nothing of it lives any more. */
static void failed(struct job *job, struct process *p) {
  if (answerable(job)) {
    process_remove(p);
    control_error(job->request, &job->error);
  } else {
    /* Nobody can be told by an answer: it counts as a program that ended at once. */
    process_ended(p, job->error.code == ENOENT ? 127 : 126);
  }
}

static void finished(struct job *job) {
  struct process *p = job->owner;
  if (!job->error.code && p->main_fd < 0)
    err_set(&job->error, EIO, "START %s: the child ended before the program was started", p->name);
  if (!job->error.code) {
    process_started(p);
    if (answerable(job))
      control_started(job->request, p);
    job_free(job);
    return;
  }
  /* Its mounts must be gone when the host hears of the failure. */
  if (!p->reaped) {
    int target = p->init_fd >= 0 ? p->init_fd : p->main_fd;
    if (target >= 0)
      syscall(SYS_pidfd_send_signal, target, SIGKILL, NULL, 0);
    return;
  }
  failed(job, p);
  job_free(job);
}

static void child_gone(struct process *p) {
  struct job *job = p->start;
  if (job->over)
    finished(job);
}

static void run_start(int status_fd, void *argument) {
  struct order *order = argument;
  plan_child(status_fd, order->plan, &order->start);
}

static int launch(struct process *p, const struct plan_brief *brief, uint32_t request, struct plan_bytes *plan, struct err *e) {
  struct pipes pipes = {{-1, -1}, {-1, -1}, {-1, -1}};
  struct order order = {plan, {.join_fd = -1, .tty = p->tty}};
  int result = -1;
  if (find_joined(brief, &order.start, e) == 0 && make_streams(p, &pipes, e) == 0) {
    int stdio[3] = {pipes.in[1], pipes.out[1], pipes.err[1]};
    memcpy(order.start.stdio, stdio, sizeof stdio);
    struct job *job = job_start(run_start, &order, finished, e);
    if (job) {
      job->request = request;
      job->generation = control_port.generation;
      job->message = take_message;
      job->owner = p;
      p->start = job;
      p->on_reaped = child_gone;
      p->waited_pid = job->pid;
      result = 0;
    }
  }
  close_pipes(&pipes);
  return result;
}

int start_process(uint32_t request, const uint8_t *payload, size_t size, struct err *e) {
  struct plan_brief brief;
  if (plan_scan(payload, size, &brief, e) < 0)
    return -1;
  if (!brief.process[0] || !brief.has_argv)
    return err_set(e, EINVAL, "START: a plan with PROCESS and ARGV is needed");
  if (brief.shares_pids && (brief.has_pid_namespace || !brief.cgroup[0]))
    return err_set(e, EINVAL, "START: PIDNS needs a CGROUP, and no UNSHARE pid");
  struct process *p = process_new(brief.process, brief.base, e);
  if (!p)
    return -1;
  p->tty = brief.tty;
  p->input_open = brief.input_open;
  p->has_init = brief.has_pid_namespace;
  p->is_first = brief.is_first;
  p->shares_pids = brief.shares_pids;
  memcpy(p->cgroup, brief.cgroup, sizeof p->cgroup);
  struct plan_bytes *plan = plan_copy(payload, size, e);
  int result = plan ? launch(p, &brief, request, plan, e) : -1;
  free(plan);
  if (result < 0)
    process_remove(p);
  return result;
}
