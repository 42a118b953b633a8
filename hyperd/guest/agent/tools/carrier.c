#define _GNU_SOURCE
#include "tools/carrier.h"

#include <endian.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "plan/plan.h"

enum { RING = 16 << 20 }; /* bytes of the disk: what is placed there is taken before it is overwritten */
enum { INLINE = 1, DISK = 2, PLACED = 3, TAKEN = 4 };

struct note {
  uint32_t kind, value;
};

static struct {
  bool on, ended;
  int root, disk; /* the agent's root: the program may have another one by then */
  uint64_t placed, taken; /* bytes, both of the one stream that goes by the disk */
  uint32_t waiting;       /* bytes of an INLINE record */
} c = {.root = -1, .disk = -1};

void carrier_on(void) {
  c.on = true;
  c.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
}

static int damaged(void) {
  errno = EPROTO;
  return -1;
}

static uint64_t blocks(uint64_t size) { return (size + CARRIER_UNIT - 1) / CARRIER_UNIT * CARRIER_UNIT; }

static int say(uint32_t kind, uint32_t value) {
  struct note r = {htobe32(kind), htobe32(value)};
  return write_all(1, &r, sizeof r);
}

static int open_disk(uint32_t lun) {
  char path[64];
  close_fd(&c.disk);
  if (plan_lun(c.root, lun, path, sizeof path) < 0)
    return -1;
  c.disk = openat(c.root, path, O_RDWR | O_DIRECT | O_CLOEXEC);
  return c.disk < 0 ? -1 : 0;
}

static int take_record(const struct note *r) {
  uint32_t kind = be32toh(r->kind), value = be32toh(r->value);
  if (kind == DISK)
    return open_disk(value);
  if (kind == INLINE && !c.waiting) {
    c.waiting = value;
    return 0;
  }
  if (kind == PLACED && c.disk >= 0 && c.placed % CARRIER_UNIT == 0 && c.placed + value - c.taken <= RING) {
    c.placed += value;
    return 0;
  }
  if (kind == TAKEN && value <= c.placed - c.taken) {
    c.taken += value;
    return 0;
  }
  return damaged();
}

/* One record of stdin: 1, at its end 0. */
static int next_record(void) {
  struct note r;
  size_t have = 0;
  while (have < sizeof r) {
    ssize_t count = RETRY(read(0, (char *)&r + have, sizeof r - have));
    if (count < 0)
      return -1;
    if (count == 0) {
      c.ended = true;
      return have ? damaged() : 0;
    }
    have += (size_t)count;
  }
  return take_record(&r) < 0 ? -1 : 1;
}

/* Is there something to read on stdin, or its end? */
static bool comes(void) {
  struct pollfd p = {.fd = 0, .events = POLLIN};
  return !c.ended && RETRY(poll(&p, 1, 0)) > 0;
}

static ssize_t read_disk(void *buffer, size_t room) {
  uint64_t at = c.taken % RING, there = c.placed - c.taken;
  size_t size = room < there ? room : (size_t)there;
  if (size > RING - at)
    size = (size_t)(RING - at);
  if (size > CARRIER_PAGE && !c.ended)
    size -= size % CARRIER_PAGE; /* so that what comes next begins at a page again */
  ssize_t count = RETRY(pread(c.disk, buffer, (size_t)blocks(size), (off_t)at));
  if (count < (ssize_t)size)
    return count < 0 ? -1 : damaged();
  c.taken += size;
  return say(TAKEN, (uint32_t)size) < 0 ? -1 : (ssize_t)size;
}

ssize_t carrier_read(void *buffer, size_t room) {
  if (!c.on)
    return RETRY(read(0, buffer, room));
  for (;;) {
    if (c.waiting) {
      ssize_t count = RETRY(read(0, buffer, room < c.waiting ? room : c.waiting));
      if (count <= 0)
        return count < 0 ? -1 : damaged();
      c.waiting -= (uint32_t)count;
      return count;
    }
    uint64_t there = c.placed - c.taken;
    if (there >= room || (there >= CARRIER_PAGE && !comes()) || (there && c.ended))
      return read_disk(buffer, room);
    int more = c.ended ? 0 : next_record();
    if (more < 0 || (more == 0 && !there))
      return more;
    if (c.waiting && there)
      return damaged(); /* what is placed comes before it */
  }
}

int carrier_write(const void *data, size_t size) {
  if (!c.on)
    return write_all(1, data, size);
  while (comes() || (c.disk >= 0 && c.placed + size - c.taken > RING)) {
    int more = next_record();
    if (more < 0)
      return -1;
    if (more == 0 && c.placed + size - c.taken > RING)
      return damaged(); /* who reads is gone */
  }
  if (c.disk < 0)
    return say(INLINE, (uint32_t)size) < 0 ? -1 : write_all(1, data, size);
  for (size_t done = 0; done < size;) {
    uint64_t at = (c.placed + done) % RING;
    size_t part = size - done < RING - at ? size - done : (size_t)(RING - at);
    ssize_t count = RETRY(pwrite(c.disk, (const char *)data + done, (size_t)blocks(part), (off_t)at));
    if (count < (ssize_t)part)
      return count < 0 ? -1 : damaged();
    done += part;
  }
  c.placed += size;
  return say(PLACED, (uint32_t)size);
}
