#define _GNU_SOURCE
#include "jobs.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control.h"
#include "process.h"

enum { MESSAGE_SIZE = 33000 };

int gate_fd = -1;

static TAILQ_HEAD(, job) jobs = TAILQ_HEAD_INITIALIZER(jobs);
static unsigned job_count;

/* Child's side. */

int job_send(int status_fd, char type, const void *data, size_t size, const int *fds, unsigned fd_count) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(2 * sizeof(int))];
  } control = {0};
  struct iovec parts[2] = {{&type, 1}, {(void *)data, size}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  if (fd_count) {
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
  }
  return RETRY(sendmsg(status_fd, &message, MSG_NOSIGNAL)) < 0 ? -1 : 0;
}

void job_send_error(int status_fd, const struct err *e) {
  uint8_t body[4 + sizeof e->text];
  size_t size = strlen(e->text);
  put32(body, (uint32_t)e->code);
  memcpy(body + 4, e->text, size);
  job_send(status_fd, M_ERROR, body, size + 4, NULL, 0);
}

/* Agent's side. */

static void job_free(struct job *job) {
  int fd = job->status.fd;
  loop_remove(&job->status);
  close_fd(&fd);
  TAILQ_REMOVE(&jobs, job, link);
  job_count--;
  free(job->output);
  loop_free_later(job);
}

static bool answerable(const struct job *job) { return control_port.generation == job->generation; }

static void answer_error(struct job *job) {
  if (answerable(job))
    control_error(job->request, &job->error);
}

/* A START failed and nothing of it lives any more. */
static void start_failed(struct job *job) {
  struct process *p = job->process;
  if (answerable(job)) {
    process_remove(p);
    answer_error(job);
  } else {
    /* Nobody can be told by an answer: it counts as a program that ended at once. */
    process_ended(p, job->error.code == ENOENT ? 127 : 126);
  }
}

static void start_finished(struct job *job) {
  struct process *p = job->process;
  if (!job->error.code && !job->told_main)
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
  start_failed(job);
  job_free(job);
}

static void job_over(struct job *job) {
  job->over = true;
  int fd = job->status.fd;
  loop_remove(&job->status);
  close_fd(&fd);
  if (job->process) {
    start_finished(job);
    return;
  }
  if (job->ok && !job->error.code) {
    if (answerable(job))
      control_respond(job->request, job->output, job->output_size);
  } else {
    if (!job->error.code)
      err_set(&job->error, EIO, "the child ended before it was done");
    answer_error(job);
  }
  job_free(job);
}

void job_child_gone(struct job *job) {
  if (job->over)
    start_finished(job);
}

static void take_output(struct job *job, const uint8_t *data, size_t size) {
  if (size > MAX_JOB_OUTPUT - job->output_size)
    return;
  uint8_t *grown = realloc(job->output, job->output_size + size);
  if (!grown) {
    err_set(&job->error, ENOMEM, "no memory for the answer");
    return;
  }
  memcpy(grown + job->output_size, data, size);
  job->output = grown;
  job->output_size += size;
}

static void take_waited(struct job *job, const char *text, int *fd) {
  uint64_t pid;
  if (!job->process || !parse_u64(text, 10, INT32_MAX, &pid) || job->process->init_fd >= 0)
    return;
  job->process->waited_pid = (pid_t)pid;
  job->process->init_fd = *fd;
  *fd = -1;
}

static void take_main(struct job *job, pid_t pid, int *fds) {
  struct process *p = job->process;
  if (!p || job->told_main || fds[0] < 0)
    return;
  job->told_main = true;
  p->main_pid = pid;
  p->main_fd = fds[0];
  fds[0] = -1;
  if (!p->tty || fds[1] < 0)
    return;
  fcntl(fds[1], F_SETFL, O_RDWR | O_NONBLOCK);
  int copy = fcntl(fds[1], F_DUPFD_CLOEXEC, 3);
  if (copy < 0 || stream_attach(&p->streams[S_OUT], fds[1], true) < 0)
    err_reason(&job->error, errno, "TTY");
  else
    fds[1] = -1;
  if (p->input_open && copy >= 0 && stream_attach(&p->streams[S_IN], copy, true) == 0)
    copy = -1;
  close_fd(&copy);
}

static void take_message(struct job *job, uint8_t *data, size_t size, pid_t sender, int *fds) {
  data[size] = 0;
  switch (data[0]) {
  case M_OK:
    job->ok = true;
    break;
  case M_OUTPUT:
    take_output(job, data + 1, size - 1);
    break;
  case M_ERROR:
    if (size >= 5 && !job->error.code)
      err_set(&job->error, (int)get32(data + 1), "%s", (char *)data + 5);
    break;
  case M_WAITED:
    take_waited(job, (char *)data + 1, &fds[0]);
    break;
  case M_MAIN:
    take_main(job, sender, fds);
    break;
  default:
    break;
  }
}

/* Read one message; 1 = done, 0 = the other side is closed, -1 = nothing there. */
static int receive(struct job *job) {
  static uint8_t data[MESSAGE_SIZE + 1];
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(2 * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
  } control;
  struct iovec part = {data, MESSAGE_SIZE};
  struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control.space, .msg_controllen = sizeof control};
  ssize_t n = RETRY(recvmsg(job->status.fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  if (n < 0)
    return errno == EAGAIN ? -1 : 0;
  int fds[2] = {-1, -1};
  pid_t sender = 0;
  for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
      memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    else if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
      sender = ((struct ucred *)CMSG_DATA(c))->pid;
  }
  if (n > 0)
    take_message(job, data, (size_t)n, sender, fds);
  close_fd(&fds[0]);
  close_fd(&fds[1]);
  return n > 0;
}

static void listen_to(struct job *job) {
  int more;
  while ((more = receive(job)) > 0)
    continue;
  if (more == 0)
    job_over(job);
}

static void status_event(struct watch *w, uint32_t events) {
  (void)events;
  listen_to((struct job *)((char *)w - offsetof(struct job, status)));
}

void jobs_listen(void) {
  for (struct job *job = TAILQ_FIRST(&jobs), *next; job; job = next) {
    next = TAILQ_NEXT(job, link);
    if (job->status.fd >= 0)
      listen_to(job);
  }
}

static void child_signals(void) {
  sigset_t none;
  for (int s = 1; s < NSIG; s++)
    signal(s, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

struct job *job_start(uint32_t request, void (*run)(int, void *), void *argument, struct err *e) {
  int pair[2], on = 1;
  if (job_count >= MAX_JOBS)
    return err_set(e, EAGAIN, "too many requests at once"), NULL;
  struct job *job = calloc(1, sizeof *job);
  if (!job || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
    free(job);
    return err_reason(e, errno, "socketpair"), NULL;
  }
  setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  pid_t pid = fork();
  if (pid == 0) {
    child_signals();
    run(pair[1], argument);
    _exit(1);
  }
  int saved = errno;
  close(pair[1]);
  job->status = (struct watch){pair[0], status_event};
  if (pid < 0 || loop_add(&job->status, EPOLLIN) < 0) {
    close(pair[0]);
    free(job);
    return err_reason(e, pid < 0 ? saved : errno, "fork"), NULL;
  }
  job->pid = pid;
  job->request = request;
  job->generation = control_port.generation;
  TAILQ_INSERT_TAIL(&jobs, job, link);
  job_count++;
  return job;
}
