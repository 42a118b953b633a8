/* Memory of control groups: what the kernel killed in them, and groups that do nothing but read their programs again. */
#pragma once

#include <sys/queue.h>

#include "loop/loop.h"

struct memory {
  struct watch events; /* memory.events; a descriptor of -1 = not watched */
  const char *group;   /* below the cgroup root; belongs to the owner */
  uint64_t kills;      /* by the kernel's out-of-memory killer, as of the last look */
  bool killed;         /* more of them: for the owner to clear */
  bool listed;         /* it has come to its limit, and is looked at every second */
  TAILQ_ENTRY(memory) link;
  uint64_t hits, faults; /* as of the last look: how often it was at its limit, pages of files that programs waited for */
  unsigned starved;      /* looks in a row that found it reading its programs */
  char limit[32];        /* the limit that it gets back, empty = it has it */
  char lowered[32];      /* the one in its place */
};

void memory_init(struct memory *m);
/* Watch a group from now on; nothing happens where it has no memory controller. */
void memory_watch(struct memory *m, const char *group);
/* Count what the kernel has killed until now. */
void memory_count(struct memory *m);
void memory_forget(struct memory *m);
