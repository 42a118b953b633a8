#define _GNU_SOURCE
#include "wire/frames.h"

#include <string.h>

static const uint8_t MAGIC[4] = {'H', 'Y', 'F', 'R'};
static const uint8_t TRAILER[4] = {'R', 'F', 'Y', 'H'};

uint8_t *decoder_room(struct decoder *d, size_t *size) {
  if (d->start) {
    memmove(d->buffer, d->buffer + d->start, d->end - d->start);
    d->end -= d->start;
    d->start = 0;
  }
  *size = MAX_FRAME - d->end;
  return d->buffer + d->end;
}

void decoder_added(struct decoder *d, size_t size) { d->end += size; }

static void drop(struct decoder *d, size_t size) {
  d->start += size;
  d->dropped += size;
}

/* Move on to a magic, or to what may become one; zeros between frames are no error. */
static void skip_to_magic(struct decoder *d) {
  while (d->start < d->end) {
    size_t have = d->end - d->start;
    const uint8_t *at = d->buffer + d->start;
    if (memcmp(at, MAGIC, have < 4 ? have : 4) == 0)
      return;
    const uint8_t *next = memchr(at + 1, MAGIC[0], have - 1);
    size_t skip = next ? (size_t)(next - at) : have;
    for (size_t i = 0; i < skip; i++)
      d->dropped += at[i] != 0;
    d->start += skip;
  }
}

bool decoder_next(struct decoder *d, struct frame *f) {
  for (;;) {
    skip_to_magic(d);
    size_t have = d->end - d->start;
    const uint8_t *at = d->buffer + d->start;
    if (have < FRAME_HEADER)
      return false;
    uint32_t size = get32(at + 12);
    if (size > MAX_PAYLOAD) {
      drop(d, sizeof MAGIC);
      continue;
    }
    if (have < size + FRAME_OVERHEAD)
      return false;
    if (memcmp(at + FRAME_HEADER + size, TRAILER, sizeof TRAILER) != 0) {
      /* The whole frame goes: nothing inside a payload (somebody's input) may ever be taken for a frame. */
      drop(d, size + FRAME_OVERHEAD);
      continue;
    }
    *f = (struct frame){at[4], at[5], get16(at + 6), get32(at + 8), size, at + FRAME_HEADER};
    d->start += size + FRAME_OVERHEAD;
    return true;
  }
}

size_t frame_wrap(uint8_t *out, const struct frame *f) {
  memcpy(out, MAGIC, sizeof MAGIC);
  out[4] = f->type;
  out[5] = f->flags;
  put16(out + 6, f->code);
  put32(out + 8, f->id);
  put32(out + 12, f->size);
  memcpy(out + FRAME_HEADER + f->size, TRAILER, sizeof TRAILER);
  return f->size + FRAME_OVERHEAD;
}
