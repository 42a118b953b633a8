/* A window of a byte stream: bytes from `base` (not yet acknowledged) to `end`, addressed by stream offset. */
#pragma once

#include "wire/frames.h"

struct ring {
  uint8_t *memory; /* STREAM_WINDOW bytes, NULL = holds nothing */
  uint64_t base, end;
  size_t start; /* index of `base` in memory */
};

int ring_open(struct ring *r); /* -1 when there is no memory */
void ring_close(struct ring *r);
static inline size_t ring_used(const struct ring *r) { return (size_t)(r->end - r->base); }
static inline size_t ring_room(const struct ring *r) { return STREAM_WINDOW - ring_used(r); }
/* The contiguous room at the end. */
uint8_t *ring_tail(struct ring *r, size_t *size);
void ring_added(struct ring *r, size_t size);
/* The contiguous bytes from `offset` on (base <= offset <= end). */
const uint8_t *ring_at(const struct ring *r, uint64_t offset, size_t *size);
/* Add bytes; gives how many fitted. */
size_t ring_put(struct ring *r, const uint8_t *data, size_t size);
/* Forget everything before `offset` (clamped to base..end); gives how many bytes went. */
size_t ring_drop(struct ring *r, uint64_t offset);
