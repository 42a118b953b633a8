#define _GNU_SOURCE
#include "control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/records.h"

/* A host that asks more than it listens gets errors over the first bound and silence over the second. */
enum { QUEUE_SOFT = 2 << 20, QUEUE_HARD = 4 << 20 };

struct out {
  STAILQ_ENTRY(out) link;
  size_t size;
  uint8_t bytes[];
};

struct port control_port;

static int (*method_call)(const struct frame *f, struct err *e);

static STAILQ_HEAD(, out) queue = STAILQ_HEAD_INITIALIZER(queue);
static size_t queued;

static void enqueue(const struct frame *f) {
  size_t size = f->size + FRAME_OVERHEAD;
  if (queued + size > QUEUE_HARD)
    return;
  struct out *out = malloc(sizeof *out + size);
  if (!out)
    return;
  memcpy(out->bytes + FRAME_HEADER, f->payload, f->size);
  out->size = frame_wrap(out->bytes, f);
  STAILQ_INSERT_TAIL(&queue, out, link);
  queued += size;
}

void control_respond(uint32_t request, const void *payload, size_t size) {
  static const uint8_t nothing;
  struct frame f = {.type = F_RESPONSE, .id = request, .size = (uint32_t)size, .payload = payload ? payload : &nothing};
  enqueue(&f);
}

void control_error(uint32_t request, const struct err *e) {
  uint8_t body[sizeof e->text + 16];
  struct writer w = {body, 0, sizeof body, false};
  put_record(&w, R_TEXT, 1);
  put_text(&w, e->text);
  struct frame f = {.type = F_ERROR, .code = (uint16_t)e->code, .id = request, .size = (uint32_t)w.used, .payload = body};
  enqueue(&f);
}

void control_started(uint32_t request, const struct process *p) {
  static uint8_t body[4096];
  struct writer w = {body, 0, sizeof body, false};
  put_record(&w, R_PID, 2);
  put_number(&w, (uint64_t)p->main_pid);
  put_text(&w, p->user ? p->user : "");
  control_respond(request, body, w.used);
}

/* Events are flags of a process until there is room to send them: however many end, nothing piles up. */
static size_t write_event(uint8_t *out, struct process *p) {
  struct writer w = {out + FRAME_HEADER, 0, 512, false};
  uint16_t code = p->memory.killed ? 2 : 1;
  put_record(&w, R_EXIT, p->memory.killed ? 1 : 3);
  put_text(&w, p->name);
  if (p->memory.killed) {
    p->memory.killed = false;
  } else {
    put_number(&w, (uint64_t)p->code);
    put_number(&w, p->finished_ns);
    p->exit_due = false;
  }
  struct frame f = {.type = F_EVENT, .code = code, .size = (uint32_t)w.used};
  return frame_wrap(out, &f);
}

static size_t refill(struct port *port) {
  struct out *out = STAILQ_FIRST(&queue);
  struct process *p;
  if (out) {
    size_t size = out->size;
    memcpy(port->tx, out->bytes, size);
    STAILQ_REMOVE_HEAD(&queue, link);
    queued -= size;
    free(out);
    return size;
  }
  TAILQ_FOREACH(p, &processes, link)
    if (p->memory.killed || p->exit_due)
      return write_event(port->tx, p);
  return 0;
}

static void greet(struct port *port) {
  (void)port;
  while (!STAILQ_EMPTY(&queue)) {
    struct out *out = STAILQ_FIRST(&queue);
    STAILQ_REMOVE_HEAD(&queue, link);
    free(out);
  }
  queued = 0;
}

static void on_frame(struct port *port, const struct frame *f) {
  (void)port;
  struct err e = {0};
  if (f->type != F_REQUEST || f->id == 0)
    return;
  if (queued > QUEUE_SOFT) {
    err_set(&e, EAGAIN, "too many answers are waiting to be read");
    control_error(f->id, &e);
    return;
  }
  if (method_call(f, &e) < 0)
    control_error(f->id, &e);
}

int control_init(int (*call)(const struct frame *f, struct err *e)) {
  method_call = call;
  control_port.frame = on_frame;
  control_port.refill = refill;
  control_port.greet = greet;
  return port_init(&control_port);
}
