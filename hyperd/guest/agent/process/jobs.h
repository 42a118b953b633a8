/* Work in forked children: plans and reads that may block. */
#pragma once

#include <sys/queue.h>

#include "loop/loop.h"

enum { MAX_JOBS = 64, MAX_JOB_OUTPUT = 200000 };

struct job {
  TAILQ_ENTRY(job) link;
  struct watch status;
  uint32_t request, generation; /* whom the owner will answer; jobs do not look at them */
  void *owner;
  pid_t pid;
  bool ok, over; /* over: the child has closed its socket */
  struct err error;
  uint8_t *output;
  size_t output_size;
  /* Called once when the child has said everything; ends with job_free(), now or later. */
  void (*done)(struct job *job);
  /* Called for every other message, with its text, its sender and two descriptors (-1 = none); NULL = ignored.
     A descriptor that is kept must be replaced by -1. */
  void (*message)(struct job *job, char type, const char *text, pid_t sender, int *fds);
};

/* Fork. In the child `run` is called with the socket and must not return. NULL with an error when it cannot be. */
struct job *job_start(void (*run)(int status_fd, void *argument), void *argument, void (*done)(struct job *job), struct err *e);
void job_free(struct job *job);
/* Read what all children have said so far: before reaping, so that pids are known. */
void jobs_listen(void);
