#define _GNU_SOURCE
/* Steps about the program itself: most are noted here and take effect in launch.c, just before the exec. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan/paths.h"
#include "plan/plan.h"

static bool limit_value(const char *text, uint64_t *out) {
  if (strcmp(text, "-1") == 0) {
    *out = RLIM_INFINITY;
    return true;
  }
  return parse_u64(text, 10, UINT64_MAX, out);
}

int op_rlimit(struct plan *plan, const struct step *step, struct err *e) {
  struct limit limit;
  uint64_t resource;
  if (!parse_u64(step->args[0].text, 10, RLIM_NLIMITS - 1, &resource) || !limit_value(step->args[1].text, &limit.soft) ||
      !limit_value(step->args[2].text, &limit.hard) || plan->limit_count >= MAX_RLIMITS)
    return step_failed(step, EINVAL, e);
  limit.resource = (int)resource;
  plan->limits[plan->limit_count++] = limit;
  return 0;
}

int op_user(struct plan *plan, const struct step *step, struct err *e) {
  (void)e;
  plan->user = step;
  return 0;
}

int op_caps(struct plan *plan, const struct step *step, struct err *e) {
  for (unsigned i = 0; i < 5; i++)
    if (!parse_u64(step->args[i].text, 16, UINT64_MAX, &plan->caps[i]))
      return step_failed(step, EINVAL, e);
  plan->has_caps = true;
  return 0;
}

int op_nnp(struct plan *plan, const struct step *step, struct err *e) {
  (void)step, (void)e;
  plan->no_new_privs = true;
  return 0;
}

int op_seccomp(struct plan *plan, const struct step *step, struct err *e) {
  size_t size = step->args[0].size;
  if (size == 0 || size % sizeof(struct sock_filter) || size / sizeof(struct sock_filter) > BPF_MAXINSNS)
    return err_set(e, EINVAL, "SECCOMP: a program of %zu bytes", size);
  plan->seccomp = &step->args[0];
  return 0;
}

int op_cwd(struct plan *plan, const struct step *step, struct err *e) {
  const char *path = step->args[0].text;
  (void)plan;
  if (chdir(path) == 0)
    return 0;
  if (errno != ENOENT)
    return step_failed(step, errno, e);
  cleanup_fd int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  cleanup_fd int made = root < 0 ? -1 : path_make(root, path, true, 0755);
  if (made < 0 || fchdir(made) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_env(struct plan *plan, const struct step *step, struct err *e) {
  for (unsigned i = 0; i < step->count; i++)
    if (env_add(&plan->env, step->args[i].text, e) < 0)
      return -1;
  return 0;
}

int op_argv(struct plan *plan, const struct step *step, struct err *e) {
  plan->argv = calloc(step->count + 1u, sizeof *plan->argv);
  if (!plan->argv)
    return err_set(e, ENOMEM, "ARGV: no memory");
  for (unsigned i = 0; i < step->count; i++)
    plan->argv[i] = (char *)step->args[i].text;
  return 0;
}

int op_umask(struct plan *plan, const struct step *step, struct err *e) {
  uint64_t mask;
  if (!parse_u64(step->args[0].text, 8, 0777, &mask))
    return step_failed(step, EINVAL, e);
  plan->umask = (mode_t)mask;
  return 0;
}

int op_tty(struct plan *plan, const struct step *step, struct err *e) {
  uint64_t rows, columns;
  if (!parse_u64(step->args[0].text, 10, UINT16_MAX, &rows) || !parse_u64(step->args[1].text, 10, UINT16_MAX, &columns))
    return step_failed(step, EINVAL, e);
  plan->rows = (uint16_t)rows;
  plan->columns = (uint16_t)columns;
  return 0;
}
