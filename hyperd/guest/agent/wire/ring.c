#define _GNU_SOURCE
#include "wire/ring.h"

#include <string.h>

int ring_open(struct ring *r) {
  r->memory = map_private(STREAM_WINDOW);
  return r->memory ? 0 : -1;
}

void ring_close(struct ring *r) {
  unmap_private(r->memory, STREAM_WINDOW);
  r->memory = NULL;
  r->base = r->end;
}

uint8_t *ring_tail(struct ring *r, size_t *size) {
  size_t used = ring_used(r);
  if (used == 0)
    r->start = 0; /* a stream that never lags touches only the first pages */
  size_t tail = (r->start + used) % STREAM_WINDOW;
  size_t to_edge = STREAM_WINDOW - tail;
  *size = to_edge < STREAM_WINDOW - used ? to_edge : STREAM_WINDOW - used;
  return r->memory + tail;
}

void ring_added(struct ring *r, size_t size) { r->end += size; }

const uint8_t *ring_at(const struct ring *r, uint64_t offset, size_t *size) {
  size_t at = (r->start + (size_t)(offset - r->base)) % STREAM_WINDOW;
  size_t left = (size_t)(r->end - offset), to_edge = STREAM_WINDOW - at;
  *size = left < to_edge ? left : to_edge;
  return r->memory + at;
}

size_t ring_put(struct ring *r, const uint8_t *data, size_t size) {
  size_t done = 0;
  while (done < size) {
    size_t room;
    uint8_t *at = ring_tail(r, &room);
    if (room == 0)
      break;
    if (room > size - done)
      room = size - done;
    memcpy(at, data + done, room);
    ring_added(r, room);
    done += room;
  }
  return done;
}

size_t ring_drop(struct ring *r, uint64_t offset) {
  if (offset > r->end)
    offset = r->end;
  if (offset <= r->base)
    return 0;
  size_t size = (size_t)(offset - r->base);
  r->start = (r->start + size) % STREAM_WINDOW;
  r->base = offset;
  return size;
}
