/* The table of processes the host has started. */
#pragma once

#include <sys/queue.h>

#include "loop/loop.h"
#include "process/memory.h"
#include "process/streams.h"

enum { MAX_PROCESSES = 1024, MAX_NAME = 64 };

enum process_state { P_STARTING, P_RUNNING, P_EXITED };

struct process {
  TAILQ_ENTRY(process) link;
  char name[MAX_NAME + 1];
  enum process_state state;
  pid_t main_pid;   /* the program itself */
  pid_t waited_pid; /* our child: the program, or the init of its pid namespace */
  int main_fd;      /* pidfd of the program */
  int init_fd;      /* pidfd of the namespace's init, -1 = none */
  bool has_init;    /* started with UNSHARE pid: init_fd is process 1 of its namespace */
  bool is_first;    /* the program itself is that process */
  bool shares_pids; /* it is in the pid namespace of another: what it leaves behind is found by its cgroup */
  char *user;       /* numbers of its user, group and groups at the beginning; NULL before */
  bool tty, input_open;
  bool reaped;
  int wait_status;
  int code;
  uint64_t finished_ns; /* wall clock */
  uint64_t finished_ms; /* monotonic */
  bool exit_due; /* an event still to be sent; so is memory.killed */
  uint32_t base;          /* stream ids base .. base+2, 0 = no streams */
  struct stream streams[3];
  char cgroup[256]; /* below the cgroup root, empty = none */
  struct memory memory; /* of that group */
  struct watch left_watch; /* the main process has ended, others of its cgroup have not yet */
  void (*on_reaped)(struct process *p); /* while its START is not answered yet: who decides what follows */
  void *start;                          /* belongs to that */
};

TAILQ_HEAD(process_list, process);
extern struct process_list processes;

struct process *process_find(const char *name);
struct process *process_new(const char *name, uint32_t base, struct err *e);
void process_remove(struct process *p);
/* The START succeeded. */
void process_started(struct process *p);
/* It ended: set the code, close what belongs to a living process, queue the event. */
void process_ended(struct process *p, int code);
/* A child of ours was reaped. */
void process_reaped(pid_t pid, int status);
int process_signal(struct process *p, int signal, bool everyone, struct err *e);
