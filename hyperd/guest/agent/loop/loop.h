/* One epoll loop. Everything is edge-triggered: an owner remembers readiness and works until EAGAIN. */
#pragma once

#include "wire/util.h"

struct watch {
  int fd; /* -1 = not watched */
  void (*ready)(struct watch *w, uint32_t events);
};

struct timer {
  uint64_t at; /* now_ms(), 0 = off */
  void (*due)(struct timer *t);
  struct timer *next;
};

int loop_open(void);
int loop_add(struct watch *w, uint32_t events); /* EPOLLET is added; -1 with errno */
/* Stop watching; the descriptor stays open. Safe inside a callback. */
void loop_remove(struct watch *w);
/* free() after the current round, when no event can point to it any more. */
void loop_free_later(void *memory);
void loop_bury(void); /* the loop does this; for tests without one */
void timer_set(struct timer *t, uint64_t ms_from_now);
/* Work for ever. `work` runs after each round and returns true while it has more to do. */
void loop_run(bool (*work)(void)) __attribute__((noreturn));
