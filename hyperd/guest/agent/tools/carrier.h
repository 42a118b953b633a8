/* How an archive comes and goes: by stdin and stdout as it is, or in records, of which most may lie on a disk. */
#pragma once

#include "wire/util.h"

enum { CARRIER_UNIT = 512, CARRIER_PAGE = 4096 }; /* what is read from and written to the disk are such units */

/* From now on stdin and stdout have records (docs/protocol.md). */
void carrier_on(void);
/* As read(2) from stdin; `buffer` begins at a page, `room` is in whole units. */
ssize_t carrier_read(void *buffer, size_t room);
/* All of it to stdout; `data` begins at a page, and what follows up to a whole block may be read. -1 = errno. */
int carrier_write(const void *data, size_t size);
