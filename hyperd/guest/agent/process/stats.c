#define _GNU_SOURCE
#include "process/stats.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "process/cgroup.h"

enum { MAX_DEVICES = 64 };

static char text[65536];

static void stat_put(struct writer *w, const char *scope, const char *name, uint64_t value) {
  put_record(w, R_STAT, 3);
  put_text(w, scope);
  put_text(w, name);
  put_number(w, value);
}

uint64_t stats_meminfo(const char *name) {
  char meminfo[4096];
  unsigned long long value = 0;
  if (read_small("/proc/meminfo", meminfo, sizeof meminfo) > 0) {
    char *at = strstr(meminfo, name);
    if (at)
      sscanf(at + strlen(name), "%llu", &value);
  }
  return value;
}

static void put_cpu(struct writer *w) {
  static const char *const NAMES[] = {"user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"};
  unsigned long long v[8] = {0};
  char name[32];
  if (read_small("/proc/stat", text, sizeof text) < 0)
    return;
  sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4, v + 5, v + 6, v + 7);
  uint64_t tick = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
  for (unsigned i = 0; i < 8; i++) {
    snprintf(name, sizeof name, "cpu.%s_ns", NAMES[i]);
    stat_put(w, "vm", name, v[i] * tick);
  }
  stat_put(w, "vm", "cpu.count", (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
}

static void put_memory(struct writer *w) {
  static const struct {
    const char *name, *key;
  } KEYS[] = {{"memory.total", "MemTotal:"},     {"memory.free", "MemFree:"},  {"memory.available", "MemAvailable:"},
              {"memory.buffers", "Buffers:"},    {"memory.cached", "\nCached:"}, {"memory.shared", "Shmem:"}};
  for (unsigned i = 0; i < sizeof KEYS / sizeof KEYS[0]; i++)
    stat_put(w, "vm", KEYS[i].name, stats_meminfo(KEYS[i].key) * 1024);
}

static void put_load(struct writer *w) {
  unsigned a[3], b[3];
  char name[16];
  if (read_small("/proc/loadavg", text, sizeof text) < 0)
    return;
  if (sscanf(text, "%u.%u %u.%u %u.%u", &a[0], &b[0], &a[1], &b[1], &a[2], &b[2]) != 6)
    return;
  static const unsigned MINUTES[] = {1, 5, 15};
  for (unsigned i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "load.%u", MINUTES[i]);
    stat_put(w, "vm", name, a[i] * 100 + b[i]);
  }
}

static void put_network(struct writer *w) {
  static const char *const NAMES[] = {"rx_bytes", "rx_packets", "rx_errors", "rx_dropped",
                                      "tx_bytes", "tx_packets", "tx_errors", "tx_dropped"};
  char name[64];
  unsigned devices = 0;
  if (read_small("/proc/net/dev", text, sizeof text) < 0)
    return;
  for (char *rest = text, *line; (line = strsep(&rest, "\n")) && devices < MAX_DEVICES;) {
    unsigned long long v[8];
    char *colon = strchr(line, ':');
    if (!colon || sscanf(colon + 1, "%llu %llu %llu %llu %*u %*u %*u %*u %llu %llu %llu %llu", v, v + 1, v + 2, v + 3, v + 4,
                         v + 5, v + 6, v + 7) != 8)
      continue;
    *colon = 0;
    devices++;
    for (unsigned i = 0; i < 8; i++) {
      snprintf(name, sizeof name, "net.%.20s.%s", line + strspn(line, " "), NAMES[i]);
      stat_put(w, "vm", name, v[i]);
    }
  }
}

/* Sockets by state (include/net/tcp_states.h); the tables are long where there are many, so they are read in pieces. */
static void put_tcp(struct writer *w, const char *path, const char *prefix) {
  static const char *const NAMES[] = {NULL,        "established", "syn_sent",   "syn_recv", "fin_wait1", "fin_wait2",
                                      "time_wait", "close",       "close_wait", "last_ack", "listen",    "closing"};
  enum { STATES = sizeof NAMES / sizeof NAMES[0], MAX_TABLE = 16 << 20 };
  uint64_t counts[STATES] = {0};
  size_t kept = 0, total = 0;
  char name[32];
  cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  for (ssize_t got; total < MAX_TABLE && (got = read(fd, text + kept, sizeof text - 1 - kept)) > 0; total += (size_t)got) {
    char *rest = text, *end;
    text[kept + (size_t)got] = 0;
    for (; (end = strchr(rest, '\n')); rest = end + 1) {
      unsigned state;
      *end = 0;
      if (sscanf(rest, " %*u: %*[0-9A-F]:%*x %*[0-9A-F]:%*x %x", &state) == 1 && state < STATES)
        counts[state]++;
    }
    kept = strlen(rest);
    memmove(text, rest, kept);
    if (kept == sizeof text - 1)
      kept = 0;
  }
  for (unsigned i = 1; i < STATES; i++) {
    snprintf(name, sizeof name, "%s.%s", prefix, NAMES[i]);
    stat_put(w, "vm", name, counts[i]);
  }
}

static void put_block(struct writer *w) {
  static const char *const NAMES[] = {"reads", "read_bytes", "writes", "write_bytes"};
  char name[64], device[32];
  unsigned devices = 0;
  if (read_small("/proc/diskstats", text, sizeof text) < 0)
    return;
  for (char *rest = text, *line; (line = strsep(&rest, "\n")) && devices < MAX_DEVICES;) {
    unsigned long long v[4];
    if (sscanf(line, "%*u %*u %31s %llu %*u %llu %*u %llu %*u %llu", device, v, v + 1, v + 2, v + 3) != 5)
      continue;
    if (strncmp(device, "loop", 4) == 0 || strncmp(device, "ram", 3) == 0)
      continue;
    v[1] *= 512;
    v[3] *= 512;
    devices++;
    for (unsigned i = 0; i < 4; i++) {
      snprintf(name, sizeof name, "block.%s.%s", device, NAMES[i]);
      stat_put(w, "vm", name, v[i]);
    }
  }
}

void stats_vm(struct writer *w) {
  stat_put(w, "vm", "uptime_ms", now_ms());
  put_cpu(w);
  put_memory(w);
  put_load(w);
  put_network(w);
  put_tcp(w, "/proc/net/tcp", "tcp");
  put_tcp(w, "/proc/net/tcp6", "tcp6");
  put_block(w);
}

static bool read_cgroup(const struct process *p, const char *file) {
  char path[400];
  snprintf(path, sizeof path, "%s/%s/%s", cgroup_root, p->cgroup, file);
  return read_small(path, text, sizeof text) >= 0;
}

/* Lines of "key value". */
static void put_flat(struct writer *w, const struct process *p, const char *file, const char *const *keys, const char *prefix) {
  char name[64];
  if (!read_cgroup(p, file))
    return;
  for (char *rest = text, *line; (line = strsep(&rest, "\n"));) {
    char *space = strchr(line, ' ');
    uint64_t value;
    if (!space || !parse_u64(space + 1, 10, UINT64_MAX, &value))
      continue;
    *space = 0;
    for (unsigned i = 0; keys[i]; i++)
      if (strcmp(line, keys[i]) == 0) {
        snprintf(name, sizeof name, "%s.%s", prefix, line);
        stat_put(w, p->name, name, value);
      }
  }
}

static void put_single(struct writer *w, const struct process *p, const char *file) {
  uint64_t value;
  if (!read_cgroup(p, file))
    return;
  text[strcspn(text, "\n")] = 0;
  if (parse_u64(text, 10, UINT64_MAX, &value)) /* "max" is no number: no limit, no record */
    stat_put(w, p->name, file, value);
}

static void put_io(struct writer *w, const struct process *p) {
  uint64_t sums[4] = {0};
  static const char *const KEYS[] = {"rbytes=", "wbytes=", "rios=", "wios="};
  static const char *const NAMES[] = {"io.read_bytes", "io.write_bytes", "io.reads", "io.writes"};
  if (!read_cgroup(p, "io.stat"))
    return;
  for (char *rest = text, *word; (word = strsep(&rest, " \n"));)
    for (unsigned i = 0; i < 4; i++) {
      uint64_t value;
      if (strncmp(word, KEYS[i], strlen(KEYS[i])) == 0 && parse_u64(word + strlen(KEYS[i]), 10, UINT64_MAX, &value))
        sums[i] += value;
    }
  for (unsigned i = 0; i < 4; i++)
    stat_put(w, p->name, NAMES[i], sums[i]);
}

void stats_process(struct writer *w, const struct process *p) {
  static const char *const CPU[] = {"usage_usec", "user_usec", "system_usec", "nr_throttled", "throttled_usec", NULL};
  static const char *const MEMORY[] = {"anon", "file", "inactive_file", "pgfault", "pgmajfault", NULL};
  put_flat(w, p, "cpu.stat", CPU, "cpu");
  put_flat(w, p, "memory.stat", MEMORY, "memory");
  put_single(w, p, "memory.current");
  put_single(w, p, "memory.peak");
  put_single(w, p, "memory.max");
  put_single(w, p, "pids.current");
  put_io(w, p);
}
