/* Work in forked children: plans and reads that may block. */
#pragma once

#include <sys/queue.h>

#include "loop.h"

enum { MAX_JOBS = 64, MAX_JOB_OUTPUT = 200000 };

struct process;

/* What a child tells the agent over its socket: one message each, the first byte says which. */
enum job_message {
  M_ERROR = 'E',  /* u32 errno, text */
  M_OK = 'O',     /* a plan without a program was carried out */
  M_OUTPUT = 'D', /* a piece of the answer's payload */
  M_WAITED = 'W', /* decimal pid of the process to wait for, with its pidfd */
  M_MAIN = 'M',   /* sent by the program's process just before the exec, with its pidfd and perhaps the terminal */
};

struct job {
  TAILQ_ENTRY(job) link;
  struct watch status;
  uint32_t request, generation;
  struct process *process; /* START only */
  pid_t pid;
  bool ok, told_main, over;
  struct err error;
  uint8_t *output;
  size_t output_size;
};

/* Fork. In the child `run` is called with the socket and must not return. -1 with an error when it cannot be. */
struct job *job_start(uint32_t request, void (*run)(int status_fd, void *argument), void *argument, struct err *e);
/* The process of a START was reaped before the START was answered. */
void job_child_gone(struct job *job);
/* Read what all children have said so far: before reaping, so that pids are known. */
void jobs_listen(void);
/* The loader of modules still runs: plans wait for the other end to close. -1 = nothing to wait for. */
extern int gate_fd;

/* For the child's side. */
int job_send(int status_fd, char type, const void *data, size_t size, const int *fds, unsigned fd_count);
void job_send_error(int status_fd, const struct err *e);
