#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "boot.h"
#include "control.h"
#include "methods.h"
#include "process/cgroup.h"
#include "process/jobs.h"
#include "process/process.h"
#include "process/shutdown.h"
#include "process/streams.h"
#include "tools/tools.h"

enum { PORT_WAIT_MS = 60000, SIGNAL_GRACE_MS = 5000 };

static void reap_children(void) {
  int status;
  /* First what they said, so that every pid has its process. */
  jobs_listen();
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    process_reaped(pid, status);
}

static void on_signal(struct watch *w, uint32_t events) {
  struct signalfd_siginfo info;
  (void)events;
  while (read(w->fd, &info, sizeof info) == sizeof info)
    if (info.ssi_signo != SIGCHLD)
      shutdown_begin(SIGNAL_GRACE_MS);
  reap_children();
}

static int watch_signals(struct watch *w) {
  static const int SIGNALS[] = {SIGCHLD, SIGTERM, SIGINT, SIGPWR, SIGUSR1, SIGUSR2};
  sigset_t set;
  sigemptyset(&set);
  for (unsigned i = 0; i < sizeof SIGNALS / sizeof SIGNALS[0]; i++)
    sigaddset(&set, SIGNALS[i]);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  *w = (struct watch){signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), on_signal};
  return loop_add(w, EPOLLIN);
}

static void raise_file_limit(void) {
  struct rlimit limit = {1 << 20, 1 << 20};
  if (setrlimit(RLIMIT_NOFILE, &limit) < 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

static int open_ports(int argc, char **argv) {
  if (!hosted) {
    /* Both are opened even if one fails: the message on the console then says which. */
    int control = port_open_device(&control_port, "hyperd.control.0", PORT_WAIT_MS);
    return port_open_device(&stream_port, "hyperd.stream.0", PORT_WAIT_MS) | control;
  }
  if (argc > 4)
    cgroup_root = argv[4];
  return port_listen(&control_port, argv[2]) | port_listen(&stream_port, argv[3]);
}

static bool work(void) {
  bool more = port_work(&control_port);
  more |= streams_work();
  more |= port_work(&stream_port);
  more |= streams_pending(); /* what the port has just brought */
  shutdown_work();
  return more;
}

int main(int argc, char **argv) {
  static struct watch signals;
  int tool = tool_main(argc, argv);
  if (tool >= 0)
    return tool;
  hosted = argc >= 4 && strcmp(argv[1], "--test") == 0;
  if (!hosted && getpid() != 1) {
    fprintf(stderr, "usage: hyper-agent --test CONTROL_SOCKET STREAM_SOCKET [CGROUP_ROOT] (tools: docs/protocol.md)\n");
    return 2;
  }
  if (hosted)
    prctl(PR_SET_CHILD_SUBREAPER, 1);
  else
    boot_guest();
  raise_file_limit();
  if (loop_open() < 0 || watch_signals(&signals) < 0 || control_init(method_call) < 0 || streams_init() < 0 ||
      open_ports(argc, argv) < 0) {
    logf_("cannot start: %s", strerror(errno));
    if (hosted)
      return 1;
  }
  loop_run(work);
}
