/* READFILE and QUIESCE, each in a forked child: a frozen file system holds only that. */
#pragma once

#include "wire/util.h"

enum { READFILE_MAX = 131072 };

struct readfile_order {
  int mount_fd; /* pidfd of a process whose files are meant, -1 = the agent's */
  char path[4096];
  uint64_t offset, size;
};

void readfile_child(int status_fd, void *order) __attribute__((noreturn));
void quiesce_child(int status_fd, void *unused) __attribute__((noreturn));
