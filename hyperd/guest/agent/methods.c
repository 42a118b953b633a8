#define _GNU_SOURCE
#include "methods.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>

#include "process/jobs.h"
#include "plan/plan.h"
#include "process/readfile.h"
#include "process/shutdown.h"
#include "start.h"
#include "process/stats.h"

typedef int method_fn(const struct frame *f, const struct record *args, struct err *e);

/* Answers are built here: the loop is single and nothing waits while one is built. */
static uint8_t answer[MAX_PAYLOAD];

static int respond(const struct frame *f, struct writer *w) {
  control_respond(f->id, answer, w->used);
  return 0;
}

static struct writer fresh_answer(void) { return (struct writer){answer, 0, sizeof answer, false}; }

static int need_process(const struct record *args, struct process **out, struct err *e) {
  char name[MAX_NAME + 1];
  if (!record_text(args, 0, name, sizeof name))
    return err_set(e, EINVAL, "bad process id");
  *out = process_find(name);
  return *out ? 0 : err_set(e, ESRCH, "%s: no such process", name);
}

static int do_ping(const struct frame *f, const struct record *args, struct err *e) {
  (void)args, (void)e;
  struct utsname uts;
  struct writer w = fresh_answer();
  uname(&uts);
  put_record(&w, R_INFO, 5);
  put_number(&w, PROTOCOL_VERSION);
  put_number(&w, now_ms());
  put_text(&w, uts.release);
  put_number(&w, stats_meminfo("MemTotal:"));
  put_number(&w, stats_meminfo("MemAvailable:"));
  return respond(f, &w);
}

/* The answer of a job that is no START. */
static void job_done(struct job *job) {
  if (!job->ok && !job->error.code)
    err_set(&job->error, EIO, "the child ended before it was done");
  if (job->generation == control_port.generation) {
    if (job->error.code)
      control_error(job->request, &job->error);
    else
      control_respond(job->request, job->output, job->output_size);
  }
  job_free(job);
}

static int answer_later(const struct frame *f, void (*run)(int status_fd, void *argument), void *argument, struct err *e) {
  struct job *job = job_start(run, argument, job_done, e);
  if (!job)
    return -1;
  job->request = f->id;
  job->generation = control_port.generation;
  return 0;
}

static void run_plan(int status_fd, void *argument) { plan_child(status_fd, argument, NULL); }

static int do_run(const struct frame *f, const struct record *args, struct err *e) {
  (void)args;
  struct plan_brief brief;
  if (plan_scan(f->payload, f->size, &brief, e) < 0)
    return -1;
  if (brief.has_argv || brief.has_pid_namespace)
    return err_set(e, EINVAL, "RUN: a plan without ARGV and UNSHARE pid is needed");
  struct plan_bytes *plan = plan_copy(f->payload, f->size, e);
  if (!plan)
    return -1;
  int result = answer_later(f, run_plan, plan, e);
  free(plan);
  return result;
}

static int do_start(const struct frame *f, const struct record *args, struct err *e) {
  (void)args;
  return start_process(f->id, f->payload, f->size, e);
}

static int do_signal(const struct frame *f, const struct record *args, struct err *e) {
  struct process *p;
  uint64_t number;
  char whom[8] = "one";
  if (need_process(args, &p, e) < 0)
    return -1;
  if (!record_number(args, 1, SIGRTMAX, &number) || (args->count > 2 && !record_text(args, 2, whom, sizeof whom)))
    return err_set(e, EINVAL, "SIGNAL: bad arguments");
  if (process_signal(p, (int)number, strcmp(whom, "all") == 0, e) < 0)
    return -1;
  control_respond(f->id, NULL, 0);
  return 0;
}

static int do_resize(const struct frame *f, const struct record *args, struct err *e) {
  struct process *p;
  uint64_t rows, columns;
  if (need_process(args, &p, e) < 0)
    return -1;
  if (!record_number(args, 1, UINT16_MAX, &rows) || !record_number(args, 2, UINT16_MAX, &columns))
    return err_set(e, EINVAL, "RESIZE: bad size");
  if (!p->tty)
    return err_set(e, ENOTTY, "RESIZE %s: has no terminal", p->name);
  struct winsize size = {.ws_row = (uint16_t)rows, .ws_col = (uint16_t)columns};
  int fd = p->streams[S_OUT].watch.fd;
  if (fd < 0 || ioctl(fd, TIOCSWINSZ, &size) < 0)
    return err_set(e, ESRCH, "RESIZE %s: its terminal is closed", p->name);
  control_respond(f->id, NULL, 0);
  return 0;
}

/* Both numbers count the EOF as one more byte: equal means that nothing more will come. */
static void put_output(struct writer *w, const struct stream *s) {
  put_number(w, s->ring.base + s->eof_acked);
  put_number(w, s->ring.end + s->ended);
}

static void put_state(struct writer *w, const struct process *p) {
  const struct stream *in = &p->streams[S_IN];
  put_record(w, R_STATE, 13);
  put_text(w, p->name);
  put_text(w, p->state == P_EXITED ? "exited" : "running");
  put_number(w, (uint64_t)p->main_pid);
  put_number(w, (uint64_t)p->code);
  put_number(w, p->base);
  put_number(w, in->ring.end);
  put_output(w, &p->streams[S_OUT]);
  put_output(w, &p->streams[S_ERR]);
  put_number(w, in->ring.base);
  put_number(w, p->finished_ns);
  put_number(w, p->state == P_EXITED ? now_ms() - p->finished_ms : 0);
}

static int do_list(const struct frame *f, const struct record *args, struct err *e) {
  (void)args, (void)e;
  struct writer w = fresh_answer();
  struct process *p;
  TAILQ_FOREACH(p, &processes, link)
    put_state(&w, p);
  return w.full ? err_set(e, EMSGSIZE, "LIST: too many processes") : respond(f, &w);
}

static int do_forget(const struct frame *f, const struct record *args, struct err *e) {
  struct process *p;
  if (need_process(args, &p, e) < 0)
    return -1;
  if (p->state != P_EXITED)
    return err_set(e, EBUSY, "FORGET %s: still runs", p->name);
  process_remove(p);
  control_respond(f->id, NULL, 0);
  return 0;
}

static int do_stats(const struct frame *f, const struct record *args, struct err *e) {
  (void)args, (void)e;
  struct writer w = fresh_answer();
  stats_vm(&w);
  struct process *p;
  TAILQ_FOREACH(p, &processes, link)
    if (p->state == P_RUNNING && p->cgroup[0])
      stats_process(&w, p);
  return w.full ? err_set(e, EMSGSIZE, "STATS: too many counters") : respond(f, &w);
}

static int do_shutdown(const struct frame *f, const struct record *args, struct err *e) {
  uint64_t grace = 0;
  if (args->count && !record_number(args, 0, 3600000, &grace))
    return err_set(e, EINVAL, "SHUTDOWN: bad grace");
  control_respond(f->id, NULL, 0);
  shutdown_begin(grace);
  return 0;
}

static int do_readfile(const struct frame *f, const struct record *args, struct err *e) {
  struct readfile_order order = {.mount_fd = -1};
  char name[MAX_NAME + 1];
  if (args->count < 4 || !record_text(args, 0, name, sizeof name) || !record_text(args, 1, order.path, sizeof order.path) ||
      !record_number(args, 2, INT64_MAX, &order.offset) || !record_number(args, 3, READFILE_MAX, &order.size))
    return err_set(e, EINVAL, "READFILE: bad arguments");
  if (name[0]) {
    struct process *p;
    if (need_process(args, &p, e) < 0)
      return -1;
    if (p->state != P_RUNNING)
      return err_set(e, ESRCH, "READFILE %s: does not run", p->name);
    order.mount_fd = p->main_fd;
  }
  return answer_later(f, readfile_child, &order, e);
}

static int do_quiesce(const struct frame *f, const struct record *args, struct err *e) {
  (void)args;
  return answer_later(f, quiesce_child, NULL, e);
}

static const struct method {
  method_fn *call;
  bool takes_records; /* the first record is read for it */
} METHODS[] = {
    [1] = {do_ping, false},      [2] = {do_run, false},       [3] = {do_start, false},    [4] = {do_signal, true},
    [5] = {do_resize, true},     [6] = {do_list, false},      [7] = {do_forget, true},    [8] = {do_stats, false},
    [9] = {do_shutdown, true},   [10] = {do_readfile, true},  [11] = {do_quiesce, false},
};

int method_call(const struct frame *f, struct err *e) {
  struct record args = {0};
  if (f->code >= sizeof METHODS / sizeof METHODS[0] || !METHODS[f->code].call)
    return err_set(e, ENOSYS, "method %u: not known", f->code);
  struct reader r = {f->payload, f->payload + f->size};
  if (METHODS[f->code].takes_records && record_next(&r, &args) < 0)
    return err_set(e, EINVAL, "malformed request");
  return METHODS[f->code].call(f, &args, e);
}
