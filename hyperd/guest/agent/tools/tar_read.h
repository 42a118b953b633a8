/* Reading archives from stdin: v7, ustar, pax, GNU tar; hostile ones, too. */
#pragma once

#include "tools/tar.h"

enum { MAX_RECORDS = 256 };

struct tar_piece {
  uint64_t offset, size;
};

/* A member; texts live until the next one is read. */
struct tar_entry {
  char *name, *link;
  char kind; /* 0 file, 1 hard link, 2 symbolic link, 3 4 devices, 5 directory, 6 fifo */
  mode_t mode;
  uint64_t uid, gid, major, minor;
  uint64_t size; /* of the file */
  struct timespec mtime;
  struct tar_piece *pieces; /* where a sparse file has data; NULL = all of it */
  size_t piece_count;
  struct text pax; /* its records, one after the other */
};

/* Begin with another archive on stdin; what was read ahead of the old one is dropped. */
void tar_restart(struct tar_entry *last);
/* 1: a member was read, 0: end, -1: damaged or too large (*why says what, or errno when it is NULL). */
int tar_next(struct tar_entry *out, const char **why);
/* The next bytes of the member's data as they are stored; 0 = end, -1 = as above. */
ssize_t tar_data(const char **at, const char **why);
/* Read to the end of stdin, and forget it: what follows an archive is padding. -1 = errno. */
ssize_t tar_drain(void);
/* Walk over pax records: start with *at = NULL. False at the end. */
bool tar_pax_next(const struct text *pax, const char **at, const char **key, const char **value, size_t *size);
