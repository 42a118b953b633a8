#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "plan/paths.h"
#include "plan/plan.h"

enum { LUN_WAIT_MS = 15000 };

static int find_lun(int root, uint64_t lun, char *out, size_t size) {
  char path[100];
  int found = -1;
  snprintf(path, sizeof path, "sys/class/scsi_device/0:0:0:%llu/device/block", (unsigned long long)lun);
  int fd = openat(root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR *dir = fd < 0 ? NULL : fdopendir(fd);
  for (struct dirent *e; dir && (e = readdir(dir));)
    if (e->d_name[0] != '.') {
      /* Name and node are there a moment before the disk can be used. */
      snprintf(out, size, "dev/%s", e->d_name);
      cleanup_fd int device = openat(root, out, O_RDONLY | O_CLOEXEC);
      found = device < 0 ? -1 : 0;
    }
  if (dir)
    closedir(dir);
  else
    close_fd(&fd);
  return found;
}

/* The kernel looks for disks when it is told to (scsi_mod.scan=manual): asking all 256 targets of the controller takes long. */
static void scan_lun(int root, uint64_t lun) {
  char path[64], text[32];
  snprintf(path, sizeof path, "sys/class/scsi_device/0:0:0:%llu", (unsigned long long)lun);
  if (faccessat(root, path, F_OK, 0) == 0)
    return;
  cleanup_fd int fd = openat(root, "sys/class/scsi_host/host0/scan", O_WRONLY | O_CLOEXEC);
  int size = snprintf(text, sizeof text, "0 0 %llu", (unsigned long long)lun);
  if (fd >= 0)
    (void)!write(fd, text, (size_t)size);
}

int plan_lun(int root, uint64_t lun, char *out, size_t size) {
  unsigned wait = 500;
  for (uint64_t end = now_ms() + LUN_WAIT_MS; find_lun(root, lun, out, size) < 0; pause_us(wait)) {
    if (now_ms() >= end) {
      errno = ENODEV;
      return -1;
    }
    scan_lun(root, lun);
    wait = wait < 10000 ? wait * 5 / 4 : wait;
  }
  return 0;
}

/* `lun:N` becomes the block device's path once the kernel has found it; other sources stay. */
static int resolve_source(const char *source, char *out, size_t size) {
  uint64_t lun;
  if (strncmp(source, "lun:", 4) != 0) {
    snprintf(out, size, "%s", source);
    return 0;
  }
  if (!parse_u64(source + 4, 10, 16383, &lun)) {
    errno = EINVAL;
    return -1;
  }
  cleanup_fd int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root < 0 || size < 2)
    return -1;
  *out = '/';
  return plan_lun(root, lun, out + 1, size - 1);
}

/* A bind mount of a file needs a file to lie on. */
static int make_bind_target(const struct plan *plan, const char *source, const char *target) {
  struct stat stat_source;
  if (stat(source, &stat_source) < 0 || S_ISDIR(stat_source.st_mode))
    return 0;
  int root = strncmp(target, "root:", 5) == 0 ? plan->root_fd : -1;
  cleanup_fd int made = path_make(root, root >= 0 ? target + 5 : target, false, 0644);
  return made < 0 ? -1 : 0;
}

/* A target `root:PATH` is resolved below OPENROOT; it is then named by a descriptor that stays open in *held. */
static int resolve_target(const struct plan *plan, const char *target, char *out, size_t size, int *held) {
  if (strncmp(target, "root:", 5) != 0) {
    snprintf(out, size, "%s", target);
    return 0;
  }
  if (plan->root_fd < 0) {
    errno = EINVAL;
    return -1;
  }
  *held = path_open(plan->root_fd, target + 5, O_PATH, 0);
  if (*held < 0)
    return -1;
  snprintf(out, size, "/proc/self/fd/%d", *held);
  return 0;
}

/* A VM that goes on from another's memory has the other's DMI tables: containers get the UUID that the host has written, to
 * be read only. */
static int mount_own_uuid(struct plan *plan, const char *sys) {
  static const char own[] = "/run/product_uuid";
  char path[MAX_PATH_TEXT], target[MAX_PATH_TEXT];
  cleanup_fd int held = -1, again = -1;
  if (access(own, F_OK) < 0)
    return 0;
  if ((size_t)snprintf(path, sizeof path, "%s/devices/virtual/dmi/id/product_uuid", sys) >= sizeof path)
    return errno = ENAMETOOLONG, -1;
  if (resolve_target(plan, path, target, sizeof target, &held) < 0 || access(target, F_OK) < 0)
    return errno == ENOENT ? 0 : -1; /* a kernel without DMI */
  if (mount(own, target, NULL, MS_BIND, NULL) < 0 || resolve_target(plan, path, target, sizeof target, &again) < 0)
    return -1;
  return mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
}

int op_mount(struct plan *plan, const struct step *step, struct err *e) {
  char source[MAX_PATH_TEXT], target[MAX_PATH_TEXT];
  uint64_t flags;
  cleanup_fd int held = -1;
  const char *type = step->args[2].text, *data = step->args[4].text;
  if (!parse_u64(step->args[3].text, 10, UINT32_MAX, &flags))
    return step_failed(step, EINVAL, e);
  if (resolve_source(step->args[0].text, source, sizeof source) < 0)
    return step_failed(step, errno, e);
  if ((flags & MS_BIND) && !(flags & MS_REMOUNT) && make_bind_target(plan, source, step->args[1].text) < 0)
    return step_failed(step, errno, e);
  if (resolve_target(plan, step->args[1].text, target, sizeof target, &held) < 0)
    return step_failed(step, errno, e);
  if (mount(source, target, *type ? type : NULL, (unsigned long)flags, *data ? data : NULL) < 0)
    return step_failed(step, errno, e);
  if (strcmp(type, "sysfs") == 0 && mount_own_uuid(plan, step->args[1].text) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_umount(struct plan *plan, const struct step *step, struct err *e) {
  char target[MAX_PATH_TEXT];
  uint64_t flags;
  cleanup_fd int held = -1;
  if (!parse_u64(step->args[1].text, 10, 15, &flags))
    return step_failed(step, EINVAL, e);
  int result = resolve_target(plan, step->args[0].text, target, sizeof target, &held);
  if (result == 0)
    result = umount2(target, (int)flags | (held < 0 ? UMOUNT_NOFOLLOW : 0));
  if (result < 0 && errno != EINVAL && errno != ENOENT)
    return step_failed(step, errno, e);
  return 0;
}

int op_pivot(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  /* Both arguments "." put the old root on top of the new one: no directory for it is needed. */
  if (chdir(step->args[0].text) < 0 || syscall(SYS_pivot_root, ".", ".") < 0 || umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
    return step_failed(step, errno, e);
  return 0;
}

/* Nothing of what is there is to be seen: an empty directory, or /dev/null. What is not there needs nothing. */
int op_mask(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  struct stat stat_path;
  const char *path = step->args[0].text;
  if (stat(path, &stat_path) < 0)
    return errno == ENOENT || errno == ENOTDIR ? 0 : step_failed(step, errno, e);
  int result = S_ISDIR(stat_path.st_mode) ? mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=4k,mode=0555")
                                          : mount("/dev/null", path, NULL, MS_BIND, NULL);
  return result < 0 ? step_failed(step, errno, e) : 0;
}

/* What is there can be read only; what its mount forbids else stays forbidden. What is not there needs nothing. */
int op_protect(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  const char *path = step->args[0].text;
  struct statvfs fs;
  if (mount(path, path, NULL, MS_BIND | MS_REC, NULL) < 0)
    return errno == ENOENT || errno == ENOTDIR ? 0 : step_failed(step, errno, e);
  if (statvfs(path, &fs) < 0)
    return step_failed(step, errno, e);
  unsigned long kept = fs.f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC); /* ST_* have the same values */
  return mount("none", path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | kept, NULL) < 0 ? step_failed(step, errno, e) : 0;
}
