#define _GNU_SOURCE
#include "plan/launch.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "loop/status.h"
#include "plan/nsinit.h"
#include "plan/paths.h"
#include "plan/users.h"

static const char DEFAULT_PATH[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/* Terminal. */

static int make_console(unsigned number) {
  char path[40];
  snprintf(path, sizeof path, "/dev/pts/%u", number);
  int fd = open("/dev/console", O_WRONLY | O_CREAT | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC | O_NONBLOCK, 0600);
  close_fd(&fd);
  return mount(path, "/dev/console", NULL, MS_BIND, NULL);
}

static int open_terminal(const struct plan *plan, int *master, struct err *e) {
  int lock = 0;
  unsigned number;
  struct winsize size = {.ws_row = plan->rows, .ws_col = plan->columns};
  *master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (*master < 0)
    *master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (*master < 0 || ioctl(*master, TIOCSPTLCK, &lock) < 0 || ioctl(*master, TIOCGPTN, &number) < 0)
    return err_reason(e, errno, "TTY");
  cleanup_fd int slave = ioctl(*master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0 || ioctl(slave, TIOCSWINSZ, &size) < 0 || ioctl(slave, TIOCSCTTY, 0) < 0)
    return err_reason(e, errno, "TTY");
  for (int i = 0; i < 3; i++)
    if (dup2(slave, i) < 0)
      return err_reason(e, errno, "TTY");
  if (plan->own_mounts && make_console(number) < 0)
    return err_reason(e, errno, "TTY /dev/console");
  return 0;
}

/* Identity. */

static int set_limits(const struct plan *plan, struct err *e) {
  /* The agent's own limit is high; many programs walk over all descriptors they may have. */
  struct rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > 1024) {
    files.rlim_cur = 1024;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  for (unsigned i = 0; i < plan->limit_count; i++) {
    struct rlimit limit = {plan->limits[i].soft, plan->limits[i].hard};
    if (setrlimit((__rlimit_resource_t)plan->limits[i].resource, &limit) < 0)
      return err_reason(e, errno, "RLIMIT %d", plan->limits[i].resource);
  }
  return 0;
}

static int set_seccomp(const struct plan *plan, struct err *e) {
  if (!plan->seccomp)
    return 0;
  struct sock_fprog program = {(unsigned short)(plan->seccomp->size / sizeof(struct sock_filter)),
                               (struct sock_filter *)plan->seccomp->text};
  if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0)
    return err_reason(e, errno, "SECCOMP");
  return 0;
}

static int drop_bounding(const struct plan *plan, struct err *e) {
  for (int cap = 0; plan->has_caps && cap < 64; cap++)
    if (!(plan->caps[0] >> cap & 1) && prctl(PR_CAPBSET_READ, cap) == 1 && prctl(PR_CAPBSET_DROP, cap) < 0)
      return err_reason(e, errno, "CAPS: bounding set");
  return 0;
}

static int set_caps(const struct plan *plan, struct err *e) {
  if (!plan->has_caps)
    return 0;
  struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct data[2];
  for (int i = 0; i < 2; i++)
    data[i] = (struct __user_cap_data_struct){(uint32_t)(plan->caps[1] >> 32 * i), (uint32_t)(plan->caps[2] >> 32 * i),
                                              (uint32_t)(plan->caps[3] >> 32 * i)};
  if (syscall(SYS_capset, &head, data) < 0)
    return err_reason(e, errno, "CAPS");
  prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  for (int cap = 0; cap < 64; cap++)
    if ((plan->caps[4] >> cap & 1) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
      return err_reason(e, errno, "CAPS: ambient set");
  return 0;
}

static int become(const struct plan *plan, const struct identity *who, struct err *e) {
  /* The user may open its own standard streams again through /dev/stdout. */
  for (int i = 0; who->uid && i < 3; i++)
    (void)!fchown(i, who->uid, (gid_t)-1);
  if (drop_bounding(plan, e) < 0)
    return -1;
  /* A filter without no_new_privs needs a capability that is dropped below. */
  if (!plan->no_new_privs && set_seccomp(plan, e) < 0)
    return -1;
  prctl(PR_SET_KEEPCAPS, plan->has_caps ? 1 : 0);
  if (setgroups((size_t)who->group_count, who->groups) < 0 || setresgid(who->gid, who->gid, who->gid) < 0 ||
      setresuid(who->uid, who->uid, who->uid) < 0)
    return err_reason(e, errno, "USER %u:%u", who->uid, who->gid);
  prctl(PR_SET_DUMPABLE, 0);
  return set_caps(plan, e);
}

/* Environment and program. */

static bool is_program(const char *path, int *code) {
  struct stat stat_program;
  if (stat(path, &stat_program) < 0) {
    /* An unreadable directory in PATH hides nothing that could be run. */
    if (errno != ENOENT && errno != ENOTDIR && *code == ENOENT)
      *code = errno;
    return false;
  }
  if (S_ISREG(stat_program.st_mode) && faccessat(AT_FDCWD, path, X_OK, AT_EACCESS) == 0)
    return true;
  *code = EACCES;
  return false;
}

/* Find argv[0] the way execvp does; -1 with the error of EXEC. */
static int find_program(const struct plan *plan, char *out, size_t size, struct err *e) {
  const char *name = plan->argv[0], *path = env_get(&plan->env, "PATH");
  int code = ENOENT;
  if (!*name)
    return err_reason(e, ENOENT, "EXEC \"\"");
  if (strchr(name, '/')) {
    snprintf(out, size, "%s", name);
    return is_program(out, &code) ? 0 : err_reason(e, code, "EXEC %.300s", name);
  }
  for (const char *at = path && *path ? path : DEFAULT_PATH; at;) {
    const char *end = strchrnul(at, ':');
    int length = (int)(end - at);
    if (snprintf(out, size, "%.*s%s%s", length, at, length ? "/" : "./", name) < (int)size && is_program(out, &code))
      return 0;
    at = *end ? end + 1 : NULL;
  }
  return err_reason(e, code, "EXEC %.300s", name);
}

/* Numbers of the user, the group and all groups. */
static size_t describe(const struct identity *who, char *out, size_t size) {
  int at = snprintf(out, size, "%u %u", who->uid, who->gid);
  for (int i = 0; i < who->group_count && at < (int)size; i++)
    at += snprintf(out + at, size - (size_t)at, " %u", who->groups[i]);
  return at < (int)size ? (size_t)at : size - 1;
}

/* This process is the program's: tell the agent, then exec. */
static void run_program(struct plan *plan, struct err *e) {
  char path[MAX_PATH_TEXT], user[MAX_USER_TEXT];
  struct identity who;
  int fds[2] = {-1, -1};
  if (setsid() < 0) {
    /* Already a leader: fine. */
  }
  if (plan->start->tty && open_terminal(plan, &fds[1], e) < 0)
    return;
  if (users_lookup(plan->user, &who, e) < 0 || env_default(&plan->env, "HOME", who.home, e) < 0 ||
      env_default(&plan->env, "USER", who.name, e) < 0)
    return;
  fds[0] = (int)syscall(SYS_pidfd_open, getpid(), 0);
  if (fds[0] < 0 || status_send(plan->status_fd, M_MAIN, user, describe(&who, user, sizeof user), fds, fds[1] >= 0 ? 2 : 1) < 0) {
    err_reason(e, errno, "START");
    return;
  }
  umask(plan->umask);
  if (set_limits(plan, e) < 0 || become(plan, &who, e) < 0 || find_program(plan, path, sizeof path, e) < 0)
    return;
  if (plan->no_new_privs && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    err_reason(e, errno, "NNP");
    return;
  }
  if (plan->no_new_privs && set_seccomp(plan, e) < 0)
    return;
  static char *nothing[] = {NULL};
  execve(path, plan->argv, plan->env.items ? plan->env.items : nothing);
  err_reason(e, errno, "EXEC %.300s", path);
}

void launch(struct plan *plan, struct err *e) {
  if (!plan->in_init || plan->is_first) {
    run_program(plan, e);
    return;
  }
  pid_t pid = fork();
  if (pid < 0) {
    err_reason(e, errno, "fork");
    return;
  }
  if (pid == 0) {
    run_program(plan, e);
    return;
  }
  /* The init keeps nothing open and nothing in memory that it does not need. */
  for (int i = 0; i < 3; i++)
    dup2(FD_NULL, i);
  syscall(SYS_close_range, 3, ~0u, 0);
  nsinit_run(pid);
}
