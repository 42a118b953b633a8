/* The tar formats: ustar and pax (POSIX.1-2017, pax), and what GNU tar adds. */
#pragma once

#include <sys/stat.h>

#include "wire/util.h"

enum { TAR_BLOCK = 512, TAR_META = 1 << 20, TAR_BUFFER = 1 << 18 };

struct tar_header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], kind, link[100], magic[6], version[2];
  char user[32], group[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK, "a header is a block");

/* A growing text. */
struct text {
  char *at;
  size_t size, room;
};
int text_add(struct text *t, const void *data, size_t size); /* -1 = no memory; a NUL follows what is there */

/* A member of an archive that is being written. */
struct tar_member {
  const char *name, *link;
  char kind;
  const struct stat *stat;
  uint64_t size;   /* bytes of data that follow */
  struct text pax; /* records to add; freed by the caller */
};

/* Output to stdout through a buffer. */
char *tar_room(size_t *size); /* where more can be put by hand, at least one byte; NULL: errno */
void tar_added(size_t size);
int tar_write(const void *data, size_t size);
int tar_flush(void);
int tar_pad(uint64_t size);
int tar_record(struct text *pax, const char *key, const void *value, size_t size);
int tar_member(struct tar_member *m); /* pax header where one is needed, and header */
