#define _GNU_SOURCE
#include "plan/plan.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/status.h"
#include "plan/launch.h"

static int op_noted(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan, (void)step, (void)e;
  return 0; /* the agent has read it already */
}

enum { MANY = 65535 };

const struct op OPS[] = {
    [1] = {"MKDIR", 2, 4, 0, op_mkdir},
    [2] = {"MOUNT", 5, 5, 0, op_mount},
    [3] = {"UMOUNT", 2, 2, 0, op_umount},
    [4] = {"WRITE", 5, 5, 1 << 4, op_write},
    [5] = {"SYMLINK", 2, 2, 0, op_symlink},
    [6] = {"MKNOD", 4, 4, 0, op_mknod},
    [7] = {"REMOVE", 1, 1, 0, op_remove},
    [8] = {"HOSTNAME", 1, 1, 0, op_hostname},
    [9] = {"TIME", 2, 2, 0, op_time},
    [10] = {"ENTROPY", 1, 1, 1, op_entropy},
    [11] = {"LINK", 3, 3, 0, op_link},
    [12] = {"ADDR", 2, 2, 0, op_addr},
    [13] = {"ROUTE", 3, 3, 0, op_route},
    [OP_PROCESS] = {"PROCESS", 1, 1, 0, op_noted},
    [OP_STREAMS] = {"STREAMS", 2, 2, 0, op_noted},
    [OP_TTY] = {"TTY", 2, 2, 0, op_tty},
    [OP_UNSHARE] = {"UNSHARE", 1, 3, 0, op_unshare},
    [OP_JOIN] = {"JOIN", 1, 1, 0, op_join},
    [19] = {"PIVOT", 1, 1, 0, op_pivot},
    [20] = {"RLIMIT", 3, 3, 0, op_rlimit},
    [21] = {"USER", 1, MANY, 0, op_user},
    [22] = {"CAPS", 5, 5, 0, op_caps},
    [23] = {"NNP", 0, 0, 0, op_nnp},
    [24] = {"SECCOMP", 1, 1, 1, op_seccomp},
    [25] = {"CWD", 1, 1, 0, op_cwd},
    [26] = {"ENV", 0, MANY, 0, op_env},
    [OP_ARGV] = {"ARGV", 1, MANY, 0, op_argv},
    [OP_CGROUP] = {"CGROUP", 1, 1, 0, op_cgroup},
    [29] = {"UMASK", 1, 1, 0, op_umask},
    [30] = {"OPENROOT", 1, 1, 0, op_openroot},
    [31] = {"LINKDOWN", 1, 1, 0, op_linkdown},
    [32] = {"IPVS", 2, 2, 1 << 1, op_ipvs},
    [33] = {"MODULES", 1, 1, 0, op_modules},
    [34] = {"LOCAL", 2, 2, 0, op_local},
    [40] = {"APPEND", 2, 2, 1 << 1, op_append},
    [41] = {"FILE", 5, 5, 0, op_file},
    [42] = {"COPYUP", 2, 2, 0, op_copyup},
    [43] = {"LIKE", 2, 2, 0, op_like},
    [44] = {"MAC", 2, 2, 0, op_mac},
    [OP_FIRST] = {"FIRST", 0, 0, 0, op_first},
    [46] = {"DEVICES", 1, MANY, 0, op_devices},
    [47] = {"MASK", 1, 1, 0, op_mask},
    [48] = {"PROTECT", 1, 1, 0, op_protect},
    [49] = {"NODES", 2, 2, 0, op_nodes},
    [OP_PIDNS] = {"PIDNS", 1, 1, 0, op_pidns},
};
const unsigned OP_COUNT = sizeof OPS / sizeof OPS[0];

/* Agent's side. */

static int check_shape(const struct record *r, struct err *e) {
  if (r->op >= OP_COUNT || !OPS[r->op].run)
    return err_set(e, ENOSYS, "op %u: not known", r->op);
  const struct op *op = &OPS[r->op];
  if (r->count < op->min || r->count > op->max)
    return err_set(e, EINVAL, "%s: %u arguments", op->name, r->count);
  const uint8_t *at = r->args;
  for (unsigned i = 0; i < r->count; i++) {
    struct slice arg = record_arg(&at);
    bool binary = i < 8 && (op->binary >> i & 1);
    if (!binary && memchr(arg.at, 0, arg.size))
      return err_set(e, EINVAL, "%s: a zero byte in an argument", op->name);
  }
  return 0;
}

static bool names(const struct record *r, const char *wanted) {
  const uint8_t *at = r->args;
  bool found = false;
  for (unsigned i = 0; i < r->count; i++) {
    struct slice arg = record_arg(&at);
    found |= arg.size == strlen(wanted) && memcmp(arg.at, wanted, arg.size) == 0;
  }
  return found;
}

static bool note(const struct record *r, struct plan_brief *b) {
  uint64_t base;
  switch (r->op) {
  case OP_PROCESS:
    return record_text(r, 0, b->process, sizeof b->process);
  case OP_JOIN:
    return record_text(r, 0, b->join, sizeof b->join);
  case OP_PIDNS:
    b->shares_pids = true;
    return record_text(r, 0, b->join, sizeof b->join);
  case OP_CGROUP:
    return record_text(r, 0, b->cgroup, sizeof b->cgroup);
  case OP_STREAMS:
    if (!record_number(r, 0, UINT32_MAX, &base) || base == 0)
      return false;
    b->base = (uint32_t)base;
    b->input_open = names(r, "open");
    break;
  case OP_TTY:
    b->tty = true;
    break;
  case OP_UNSHARE:
    b->has_pid_namespace |= names(r, "pid");
    break;
  case OP_ARGV:
    b->has_argv = true;
    break;
  case OP_FIRST:
    b->is_first = true;
    break;
  default:
    break;
  }
  return true;
}

int plan_scan(const uint8_t *payload, size_t size, struct plan_brief *brief, struct err *e) {
  struct reader r = {payload, payload + size};
  struct record record;
  int more;
  memset(brief, 0, sizeof *brief);
  while ((more = record_next(&r, &record)) > 0) {
    if (check_shape(&record, e) < 0)
      return -1;
    if (!note(&record, brief))
      return err_set(e, EINVAL, "%s: bad arguments", OPS[record.op].name);
  }
  return more < 0 ? err_set(e, EINVAL, "malformed plan") : 0;
}

struct plan_bytes *plan_copy(const uint8_t *payload, size_t size, struct err *e) {
  struct plan_bytes *copy = malloc(sizeof *copy + size);
  if (!copy)
    return err_set(e, ENOMEM, "no memory for the plan"), NULL;
  copy->size = size;
  memcpy(copy->bytes, payload, size);
  return copy;
}

/* Child's side. */

static struct step read_step(const struct record *r) {
  struct step step = {r->op, r->count, calloc(r->count + 1u, sizeof(struct arg)), OPS[r->op].name};
  const uint8_t *at = r->args;
  for (unsigned i = 0; step.args && i < r->count; i++) {
    struct slice arg = record_arg(&at);
    char *text = malloc(arg.size + 1u);
    if (!text)
      _exit(1);
    memcpy(text, arg.at, arg.size);
    text[arg.size] = 0;
    step.args[i] = (struct arg){text, arg.size};
  }
  return step;
}

static int run_steps(struct plan *plan, const struct plan_bytes *bytes, struct err *e) {
  struct reader r = {bytes->bytes, bytes->bytes + bytes->size};
  struct record record;
  while (record_next(&r, &record) > 0) {
    struct step *step = malloc(sizeof *step); /* noted steps are used until the exec: nothing is freed */
    if (!step)
      return err_set(e, ENOMEM, "no memory for a step");
    *step = read_step(&record);
    if (!step->args)
      return err_set(e, ENOMEM, "no memory for a step");
    if (OPS[step->op].run(plan, step, e) < 0)
      return -1;
  }
  return 0;
}

/* Put the descriptors a child needs at fixed numbers and close all others: it must not keep the pipes of other processes open. */
static void arrange_fds(int status_fd, const struct plan_start *start) {
  int null = open("/dev/null", O_RDWR | O_CLOEXEC);
  int wanted[] = {-1, -1, -1, status_fd, gate_fd, start ? start->join_fd : -1, null};
  for (int i = 0; start && i < 3; i++)
    wanted[i] = start->stdio[i] >= 0 ? start->stdio[i] : null;
  for (int i = 0; i < FD_FREE; i++)
    wanted[i] = wanted[i] < 0 ? -1 : fcntl(wanted[i], F_DUPFD_CLOEXEC, 64);
  for (int i = 0; i < FD_FREE; i++)
    if (wanted[i] >= 0)
      dup3(wanted[i], i, i < FD_STATUS ? 0 : O_CLOEXEC);
    else if (i >= FD_STATUS)
      close(i);
  syscall(SYS_close_range, FD_FREE, ~0u, 0);
}

static void wait_for_gate(void) {
  char byte;
  if (fcntl(FD_GATE, F_GETFD) < 0)
    return;
  (void)!RETRY(read(FD_GATE, &byte, 1));
  close(FD_GATE);
}

void plan_child(int status_fd, struct plan_bytes *bytes, const struct plan_start *start) {
  struct err e = {0};
  struct plan plan = {.status_fd = FD_STATUS, .start = start, .root_fd = -1, .umask = 022};
  arrange_fds(status_fd, start);
  wait_for_gate();
  umask(0);
  int result = run_steps(&plan, bytes, &e);
  if (result == 0 && !start) {
    status_send(FD_STATUS, M_OK, NULL, 0, NULL, 0);
    _exit(0);
  }
  if (result == 0)
    launch(&plan, &e);
  status_send_error(FD_STATUS, &e);
  _exit(1);
}
