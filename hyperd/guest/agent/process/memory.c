#define _GNU_SOURCE
#include "process/memory.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "process/cgroup.h"

/*
 * A group at its limit gives up pages of files first. When all else is memory that nothing can be done about (guests have
 * no swap), these are the pages of the programs that run: they are read from the disk again and again, for minutes where a
 * group has little CPU time, since the kernel takes each page that it got back for progress. A group that was found so at
 * LOOKS looks in a row gets a limit, for a moment, that its memory does not fit in: then the kernel ends a process, as it
 * would have done later.
 */
enum { LOOK_MS = 1000, LOOKS = 4, SHARE = 16, TURNS = 8, PAGE = 4096 };

static TAILQ_HEAD(, memory) at_limit = TAILQ_HEAD_INITIALIZER(at_limit);

static ssize_t read_file(const struct memory *m, const char *name, char *text, size_t size) {
  char path[400];
  snprintf(path, sizeof path, "%s/%s/%s", cgroup_root, m->group, name);
  return read_small(path, text, size);
}

static int write_limit(const struct memory *m, const char *limit) {
  char path[400];
  snprintf(path, sizeof path, "%s/%s/memory.max", cgroup_root, m->group);
  return write_small(path, limit);
}

static bool read_limit(const struct memory *m, char limit[32]) {
  if (read_file(m, "memory.max", limit, 32) < 0)
    return false;
  limit[strcspn(limit, "\n")] = 0;
  return true;
}

/* The number in a line "key number"; 0 when there is none. */
static uint64_t number_of(const char *text, const char *key) {
  size_t size = strlen(key);
  uint64_t value = 0;
  for (const char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, key, size) == 0 && line[size] == ' ') {
      char digits[24];
      snprintf(digits, sizeof digits, "%.*s", (int)strcspn(line + size + 1, "\n"), line + size + 1);
      return parse_u64(digits, 10, UINT64_MAX, &value) ? value : 0;
    }
  }
  return 0;
}

/* Unless somebody has given it another one since. */
static void give_limit_back(struct memory *m) {
  char limit[32];
  if (m->limit[0] && read_limit(m, limit) && strcmp(limit, m->lowered) == 0)
    write_limit(m, m->limit);
  m->limit[0] = 0;
}

/* The write lasts until the group fits, so a child does it. It ends as soon as the limit is another one. */
static void lower_limit(struct memory *m) {
  uint64_t limit;
  if (!read_limit(m, m->limit) || !parse_u64(m->limit, 10, UINT64_MAX, &limit)) {
    m->limit[0] = 0;
    return;
  }
  snprintf(m->lowered, sizeof m->lowered, "%llu", (unsigned long long)(limit - limit / SHARE) / PAGE * PAGE);
  pid_t pid = fork();
  if (pid == 0)
    _exit(write_limit(m, m->lowered) < 0);
  if (pid < 0)
    m->limit[0] = 0;
}

static void unlist(struct memory *m) {
  if (m->listed)
    TAILQ_REMOVE(&at_limit, m, link);
  m->listed = false;
  m->starved = 0;
}

/* Next to no cache is left, and the pages of programs that are in use were read TURNS times each since the last look. */
static bool starves(const struct memory *m, const char *stat, uint64_t faults) {
  char text[32];
  uint64_t limit;
  if (!read_limit(m, text) || !parse_u64(text, 10, UINT64_MAX, &limit))
    return false;
  uint64_t cache = number_of(stat, "active_file") + number_of(stat, "inactive_file");
  return cache < limit / SHARE && faults - m->faults > TURNS * (number_of(stat, "file_mapped") / PAGE + 1);
}

static void look_at(struct memory *m) {
  char events[512], stat[4096];
  give_limit_back(m);
  if (read_file(m, "memory.events", events, sizeof events) < 0 || read_file(m, "memory.stat", stat, sizeof stat) < 0) {
    unlist(m);
    return;
  }
  uint64_t hits = number_of(events, "max"), faults = number_of(stat, "pgmajfault");
  if (hits == m->hits) {
    unlist(m);
    return;
  }
  m->starved = starves(m, stat, faults) ? m->starved + 1 : 0;
  m->hits = hits;
  m->faults = faults;
  if (m->starved >= LOOKS) {
    m->starved = 0;
    lower_limit(m);
  }
}

static void look_at_all(struct timer *t) {
  struct memory *m, *next;
  for (m = TAILQ_FIRST(&at_limit); m; m = next) {
    next = TAILQ_NEXT(m, link);
    look_at(m);
  }
  if (!TAILQ_EMPTY(&at_limit))
    timer_set(t, LOOK_MS);
}

static struct timer look_timer = {.due = look_at_all};

static void list(struct memory *m, uint64_t hits) {
  char stat[4096];
  if (read_file(m, "memory.stat", stat, sizeof stat) < 0)
    return;
  if (TAILQ_EMPTY(&at_limit))
    timer_set(&look_timer, LOOK_MS);
  TAILQ_INSERT_TAIL(&at_limit, m, link);
  m->listed = true;
  m->hits = hits;
  m->faults = number_of(stat, "pgmajfault");
}

void memory_count(struct memory *m) {
  char text[512];
  if (m->events.fd < 0 || read_file(m, "memory.events", text, sizeof text) < 0)
    return;
  uint64_t kills = number_of(text, "oom_kill"), hits = number_of(text, "max");
  m->killed |= kills > m->kills;
  if (kills > m->kills)
    give_limit_back(m);
  m->kills = kills;
  if (hits > m->hits && !m->listed)
    list(m, hits);
}

static void memory_event(struct watch *w, uint32_t events) {
  (void)events;
  memory_count((struct memory *)((char *)w - offsetof(struct memory, events)));
}

void memory_init(struct memory *m) { m->events.fd = -1; }

void memory_watch(struct memory *m, const char *group) {
  char path[400], text[512];
  m->group = group;
  snprintf(path, sizeof path, "%s/%s/memory.events", cgroup_root, group);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  if (read_small(path, text, sizeof text) >= 0) {
    m->kills = number_of(text, "oom_kill");
    m->hits = number_of(text, "max");
  }
  m->events = (struct watch){fd, memory_event};
  if (loop_add(&m->events, EPOLLPRI) < 0) {
    m->events.fd = -1;
    close(fd);
  }
}

void memory_forget(struct memory *m) {
  int fd = m->events.fd;
  give_limit_back(m);
  unlist(m);
  loop_remove(&m->events);
  close_fd(&fd);
}
