#define _GNU_SOURCE
#include "process/jobs.h"

#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop/status.h"

enum { MESSAGE_SIZE = 33000 };

static TAILQ_HEAD(, job) jobs = TAILQ_HEAD_INITIALIZER(jobs);
static unsigned job_count;

void job_free(struct job *job) {
  int fd = job->status.fd;
  loop_remove(&job->status);
  close_fd(&fd);
  TAILQ_REMOVE(&jobs, job, link);
  job_count--;
  free(job->output);
  loop_free_later(job);
}

static void job_over(struct job *job) {
  job->over = true;
  int fd = job->status.fd;
  loop_remove(&job->status);
  close_fd(&fd);
  job->done(job);
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
  default:
    if (job->message)
      job->message(job, (char)data[0], (char *)data + 1, sender, fds);
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

struct job *job_start(void (*run)(int, void *), void *argument, void (*done)(struct job *), struct err *e) {
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
  job->done = done;
  TAILQ_INSERT_TAIL(&jobs, job, link);
  job_count++;
  return job;
}
