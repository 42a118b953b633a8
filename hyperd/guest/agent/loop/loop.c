#define _GNU_SOURCE
#include "loop/loop.h"

#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { ROUND = 64 };

struct grave {
  struct grave *next;
  void *memory;
};

static int epoll_fd = -1;
static struct timer *timers;
static struct grave *graves;

int loop_open(void) {
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  return epoll_fd < 0 ? -1 : 0;
}

int loop_add(struct watch *w, uint32_t events) {
  struct epoll_event event = {.events = events | EPOLLET, .data.ptr = w};
  return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, w->fd, &event);
}

void loop_remove(struct watch *w) {
  if (w->fd < 0)
    return;
  epoll_ctl(epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
  w->fd = -1;
}

void loop_free_later(void *memory) {
  struct grave *grave = malloc(sizeof *grave);
  if (!grave)
    return; /* lost, but never used after its end */
  *grave = (struct grave){graves, memory};
  graves = grave;
}

void timer_set(struct timer *t, uint64_t ms_from_now) {
  bool listed = false;
  for (struct timer *i = timers; i; i = i->next)
    listed |= i == t;
  t->at = now_ms() + ms_from_now;
  if (!listed) {
    t->next = timers;
    timers = t;
  }
}

static int until_next_timer(void) {
  uint64_t now = now_ms(), best = UINT64_MAX;
  for (struct timer *t = timers; t; t = t->next)
    if (t->at && t->at < best)
      best = t->at;
  if (best == UINT64_MAX)
    return -1;
  if (best <= now)
    return 0;
  return best - now > 60000 ? 60000 : (int)(best - now);
}

static void run_timers(void) {
  uint64_t now = now_ms();
  for (struct timer *t = timers; t; t = t->next)
    if (t->at && t->at <= now) {
      t->at = 0;
      t->due(t);
    }
}

void loop_bury(void) {
  while (graves) {
    struct grave *grave = graves;
    graves = grave->next;
    free(grave->memory);
    free(grave);
  }
}

void loop_run(bool (*work)(void)) {
  bool more = true;
  for (;;) {
    struct epoll_event events[ROUND];
    int n = epoll_wait(epoll_fd, events, ROUND, more ? 0 : until_next_timer());
    for (int i = 0; i < n; i++) {
      struct watch *w = events[i].data.ptr;
      if (w->fd >= 0)
        w->ready(w, events[i].events);
    }
    run_timers();
    more = work();
    loop_bury();
  }
}
