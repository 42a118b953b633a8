/* Fuzz target: everything that looks at the host's bytes without acting on them, and the streams. `make fuzz`. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "control.h"
#include "loop/loop.h"
#include "plan/plan.h"
#include "process/process.h"
#include "process/streams.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t room[MAX_FRAME];
static uint8_t again[MAX_FRAME];

static void require(bool condition) {
  if (!condition)
    abort();
}

/* A process whose pipes are never there: what the host sends is only kept. */
static void add_process(void) {
  struct err e;
  struct process *p = process_new("p", 16, &e);
  require(p != NULL);
  for (int i = 0; i < 3; i++)
    require(stream_open(&p->streams[i], (enum stream_kind)i, 16 + (uint32_t)i, false) == 0);
  memset(p->streams[S_OUT].ring.memory, 'o', 1000);
  p->streams[S_OUT].ring.end = 1000;
  p->streams[S_ERR].ended = true;
}

static void prepare(void) {
  static bool done;
  if (!done)
    require(loop_open() == 0 && streams_init() == 0);
  done = true;
  stream_port.greeted = true;
  add_process();
}

static void check_streams(void) {
  struct process *p = TAILQ_FIRST(&processes);
  for (int i = 0; i < 3; i++) {
    const struct stream *s = &p->streams[i];
    require(s->ring.base <= s->ring.end && ring_used(&s->ring) <= STREAM_WINDOW);
    require(s->kind == S_IN || (s->next >= s->ring.base && s->next <= s->ring.end));
  }
}

static void take(const struct frame *f) {
  struct frame copy = *f;
  struct plan_brief brief;
  struct err e;
  require(f->size <= MAX_PAYLOAD);
  if (f->size)
    memcpy(again + FRAME_HEADER, f->payload, f->size);
  require(frame_wrap(again, &copy) == f->size + FRAME_OVERHEAD);
  plan_scan(f->payload, f->size, &brief, &e);
  stream_port.frame(&stream_port, f);
  check_streams();
  for (int i = 0; i < 8; i++)
    require(stream_port.refill(&stream_port) <= MAX_FRAME);
  streams_work();
  check_streams();
}

/* Raw bytes, as a port gives them, in pieces. */
static void feed_raw(const uint8_t *data, size_t size) {
  struct decoder d = {.buffer = room};
  size_t piece = 1 + data[0] * 16u;
  while (size) {
    size_t space;
    uint8_t *to = decoder_room(&d, &space);
    size_t n = piece < space ? piece : space;
    n = n < size ? n : size;
    require(n > 0);
    memcpy(to, data, n);
    decoder_added(&d, n);
    data += n;
    size -= n;
    for (struct frame f; decoder_next(&d, &f);)
      take(&f);
  }
}

/* Good frames with free contents: gets behind the decoder quickly. */
static void feed_frames(const uint8_t *data, size_t size) {
  while (size >= 4) {
    struct frame f = {.type = data[0] % 12, .flags = data[1] & 1, .id = 15 + data[1] / 2 % 5, .payload = data + 4};
    f.size = data[2] < size - 4 ? data[2] : (uint32_t)size - 4;
    size_t used = 4 + f.size;
    take(&f);
    data += used;
    size -= used;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  prepare();
  if (size && data[0] & 1)
    feed_raw(data, size);
  else if (size)
    feed_frames(data + 1, size - 1);
  stream_port.greet(&stream_port);
  struct process *p = TAILQ_FIRST(&processes);
  for (int i = 0; i < 3; i++)
    stream_close(&p->streams[i]);
  process_remove(p);
  loop_bury();
  return 0;
}
