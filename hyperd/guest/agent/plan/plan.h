/* Plans: docs/protocol.md, "Ops of a plan". Everything but plan_scan and plan_copy runs in a forked child. */
#pragma once

#include "plan/env.h"
#include "plan/step.h"
#include "wire/records.h"

enum { MAX_RLIMITS = 32 };

/* What the agent itself must know of a plan. */
struct plan_brief {
  char process[65], join[65], cgroup[256];
  uint32_t base;
  bool input_open, tty, has_argv, has_pid_namespace, is_first, shares_pids;
};

struct plan_bytes {
  size_t size;
  uint8_t bytes[];
};

/* What the child of a START is given. Descriptors are the agent's. */
struct plan_start {
  int stdio[3]; /* -1 = /dev/null */
  int join_fd;  /* pidfd, -1 = none */
  pid_t join_pid;
  char join_cgroup[256];
  bool tty;
};

struct limit {
  int resource;
  uint64_t soft, hard;
};

/* The child's state while it goes through the steps. What is only noted here takes effect just before the exec. */
struct plan {
  int status_fd;
  const struct plan_start *start; /* NULL for RUN */
  int root_fd;                    /* OPENROOT, -1 = none */
  bool in_init;                   /* this process is PID 1 of the new namespace */
  bool is_first;                  /* and becomes the program itself */
  bool own_mounts;                /* UNSHARE mnt */
  struct limit limits[MAX_RLIMITS];
  unsigned limit_count;
  const struct step *user;
  bool has_caps, no_new_privs;
  uint64_t caps[5]; /* bounding, effective, permitted, inheritable, ambient */
  const struct arg *seccomp;
  mode_t umask;
  struct env env;
  char **argv;
  uint16_t rows, columns;
};

/* Descriptors of a child, set up before the first step. */
enum { FD_STATUS = 3, FD_GATE = 4, FD_JOIN = 5, FD_NULL = 6, FD_FREE = 7 };

int plan_scan(const uint8_t *payload, size_t size, struct plan_brief *brief, struct err *e);
struct plan_bytes *plan_copy(const uint8_t *payload, size_t size, struct err *e);
/* The whole life of the child: RUN (start = NULL) or START. */
void plan_child(int status_fd, struct plan_bytes *bytes, const struct plan_start *start) __attribute__((noreturn));

/* The path below `root` of a SCSI disk's block device, once the kernel has found it (ops_mount.c). */
int plan_lun(int root, uint64_t lun, char *out, size_t size);

/* What a step does; errors are those of step_failed(). */
typedef int step_fn(struct plan *plan, const struct step *step, struct err *e);

struct op {
  const char *name;
  unsigned min, max; /* arguments */
  unsigned binary;   /* bit n = argument n may hold NULs */
  step_fn *run;
};

extern const struct op OPS[];
extern const unsigned OP_COUNT;

enum {
  OP_PROCESS = 14,
  OP_STREAMS = 15,
  OP_TTY = 16,
  OP_UNSHARE = 17,
  OP_JOIN = 18,
  OP_ARGV = 27,
  OP_CGROUP = 28,
  OP_FIRST = 45,
  OP_PIDNS = 50,
};

/* Steps, by module. */
step_fn op_mkdir, op_write, op_symlink, op_mknod, op_remove, op_openroot;           /* ops_files.c */
step_fn op_append, op_file;                                                         /* ops_files.c */
step_fn op_copyup, op_like;                                                         /* ops_copy.c */
step_fn op_mount, op_umount, op_pivot;                                              /* ops_mount.c */
step_fn op_hostname, op_time, op_entropy, op_link, op_mac, op_linkdown, op_addr, op_route;  /* ops_system.c */
step_fn op_local, op_ipvs, op_modules;                                           /* ops_system.c */
step_fn op_unshare, op_join, op_pidns, op_cgroup, op_first;                         /* ops_namespace.c */
step_fn op_devices, op_nodes;                                                       /* ops_devices.c */
step_fn op_mask, op_protect;                                                        /* ops_mount.c */
step_fn op_rlimit, op_user, op_caps, op_nnp, op_seccomp, op_cwd, op_env, op_argv, op_umask, op_tty; /* ops_program.c */
