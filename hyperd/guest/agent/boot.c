#define _GNU_SOURCE
#include "boot.h"

#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop/status.h"
#include "plan/modules.h"
#include "plan/netlink.h"
#include "wire/util.h"

static void mount_one(const char *type, const char *target, unsigned long flags, const char *data) {
  mkdir(target, 0755);
  if (mount(type, target, type, flags, data) < 0)
    logf_("mount %s: %s", target, strerror(errno));
}

/* pivot_root is impossible while the root is the first mount, so the root becomes a bind mount of it. */
static void move_root(void) {
  mkdir("/root.new", 0755);
  if (mount("/", "/root.new", NULL, MS_BIND, NULL) < 0 || chdir("/root.new") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 ||
      chroot(".") < 0 || chdir("/") < 0)
    logf_("moving the root: %s", strerror(errno));
  rmdir("/root.new");
}

static void bring_up_lo(void) {
  unsigned lo = if_nametoindex("lo");
  if (!lo || net_link_set(lo, NULL, 0, true) < 0)
    logf_("lo: %s", strerror(errno));
}

/*
 * Programs whose pages of files of the last second do not fit in memory would read them again and again, for minutes: the
 * kernel's out-of-memory killer comes then. Nothing happens with a kernel that cannot do it.
 */
static void bound_thrashing(void) {
  write_small("/sys/kernel/mm/lru_gen/enabled", "y");
  write_small("/sys/kernel/mm/lru_gen/min_ttl_ms", "1000");
}

/* What no port needs is done beside the rest (lo alone takes 16 ms in a slow guest); plans wait until the pipe closes. */
static void finish_later(void) {
  int ends[2];
  pid_t pid = pipe2(ends, O_CLOEXEC) < 0 ? -1 : fork();
  if (pid <= 0) {
    bring_up_lo();
    bound_thrashing();
    load_modules("/etc/modules.late");
  }
  if (pid == 0)
    _exit(0);
  if (pid > 0) {
    close(ends[1]);
    gate_fd = ends[0];
  }
}

void boot_guest(void) {
  umask(022);
  setsid();
  move_root();
  mount_one("devtmpfs", "/dev", MS_NOSUID, "mode=0755");
  mount_one("sysfs", "/sys", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  load_modules("/etc/modules");
  mount_one("proc", "/proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  mount_one("devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666");
  mount_one("tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777");
  mount_one("tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755");
  /* Containers may write to what they see as /etc/hosts and the like: that has a size of its own. */
  mount_one("tmpfs", "/run/etc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=0755,size=1m");
  mount_one("cgroup2", "/sys/fs/cgroup", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
  /* Containers hear nothing of the kernel's log, and the console only of what is serious. */
  write_small("/proc/sys/kernel/dmesg_restrict", "1");
  write_small("/proc/sys/kernel/printk", "4 4 1 7");
  mkdir("/tmp", 01777);
  chmod("/tmp", 01777);
  finish_later();
}
