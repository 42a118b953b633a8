#define _GNU_SOURCE
#include "process/streams.h"

#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sysinfo.h>
#include <termios.h>
#include <unistd.h>

enum { ALWAYS_ALLOWED = 16384, SLICE = 65536, LINE_MS = 2 };

struct port stream_port;

TAILQ_HEAD(stream_list, stream);
static struct stream_list all = TAILQ_HEAD_INITIALIZER(all); /* those that are live */
static struct stream_list work_list = TAILQ_HEAD_INITIALIZER(work_list);
static struct stream_list tx_list = TAILQ_HEAD_INITIALIZER(tx_list);
static size_t buffered, budget;
static bool any_starved;

static void want_work(struct stream *s) {
  if (!s->in_work)
    TAILQ_INSERT_TAIL(&work_list, s, work_link);
  s->in_work = true;
}

static bool something_to_send(const struct stream *s) {
  if (s->kind == S_IN || !s->live)
    return s->live && s->ack_due;
  return s->resumed && (s->next < s->ring.end || (s->ended && !s->eof_sent));
}

static void want_tx(struct stream *s) {
  if (!s->in_tx && something_to_send(s)) {
    TAILQ_INSERT_TAIL(&tx_list, s, tx_link);
    s->in_tx = true;
  }
}

static void stream_event(struct watch *w, uint32_t events) {
  struct stream *s = (struct stream *)((char *)w - offsetof(struct stream, watch));
  if (s->kind == S_IN && (events & (EPOLLERR | EPOLLHUP)) && !s->tty)
    s->closed = true;
  s->ready = true;
  want_work(s);
}

int stream_open(struct stream *s, enum stream_kind kind, uint32_t id, bool closed) {
  s->kind = kind;
  s->id = id;
  s->closed = closed;
  if (!closed && ring_open(&s->ring) < 0)
    return -1;
  s->live = true;
  TAILQ_INSERT_TAIL(&all, s, link);
  s->resumed = stream_port.greeted;
  return 0;
}

int stream_attach(struct stream *s, int fd, bool tty) {
  s->tty = tty;
  s->watch = (struct watch){fd, stream_event};
  /* An input's reader that goes away shows as EPOLLERR, which needs no asking for. */
  return loop_add(&s->watch, s->kind == S_IN ? EPOLLOUT : EPOLLIN);
}

static void close_end(struct stream *s) {
  int fd = s->watch.fd;
  loop_remove(&s->watch);
  close_fd(&fd);
}

static void account(size_t freed) {
  buffered -= freed;
  if (!any_starved || buffered > budget)
    return;
  any_starved = false;
  struct stream *s;
  TAILQ_FOREACH(s, &all, link)
    if (s->starved) {
      s->starved = false;
      want_work(s);
    }
}

void stream_orphan(struct stream *s) {
  s->orphan = true;
  if (s->live && s->tty) {
    s->ready = true;
    want_work(s);
  }
}

void stream_close(struct stream *s) {
  close_end(s);
  if (s->in_work)
    TAILQ_REMOVE(&work_list, s, work_link);
  if (s->in_tx)
    TAILQ_REMOVE(&tx_list, s, tx_link);
  if (s->live)
    TAILQ_REMOVE(&all, s, link);
  s->in_work = s->in_tx = s->live = s->starved = false;
  size_t freed = s->ring.memory ? ring_used(&s->ring) : 0;
  ring_close(&s->ring);
  account(freed);
}

/* Input: what the host sent goes into the pipe. */

static void input_shut(struct stream *s) {
  s->closed = true;
  s->ack_due = true;
  close_end(s);
  account(ring_drop(&s->ring, s->ring.end));
}

static void input_finish(struct stream *s) {
  struct termios modes;
  if (s->tty && tcgetattr(s->watch.fd, &modes) == 0 && (modes.c_lflag & ICANON)) {
    /* A terminal has no end; what a user types for it does. */
    char end = (char)modes.c_cc[VEOF];
    (void)!write(s->watch.fd, &end, 1);
  }
  s->closed = true;
  s->eof_acked = true;
  s->ack_due = true;
  close_end(s);
}

static bool input_work(struct stream *s) {
  size_t size;
  while (!s->closed && s->watch.fd >= 0 && s->ready && ring_used(&s->ring)) {
    const uint8_t *at = ring_at(&s->ring, s->ring.base, &size);
    ssize_t n = RETRY(write(s->watch.fd, at, size));
    if (n > 0) {
      account(ring_drop(&s->ring, s->ring.base + (uint64_t)n));
      s->ack_due = true;
    } else if (n < 0 && errno != EAGAIN) {
      s->closed = true;
    } else {
      s->ready = false;
    }
  }
  if (s->closed && s->watch.fd >= 0)
    input_shut(s);
  else if (s->ended && !s->closed && s->watch.fd >= 0 && ring_used(&s->ring) == 0)
    input_finish(s);
  want_tx(s);
  return false;
}

/* Output: what the process wrote goes into the ring. */

/* Note when bytes came. Marks of what is gone are forgotten; with none left the last two become one. */
static void note_time(struct stream *s) {
  enum { SAME_MS = 20 };
  uint64_t now = now_ms();
  unsigned gone = 0;
  while (gone < s->mark_count && s->marks[gone].end <= s->ring.base)
    gone++;
  s->mark_count -= gone;
  memmove(s->marks, s->marks + gone, s->mark_count * sizeof s->marks[0]);
  if (s->mark_count && (now - s->marks[s->mark_count - 1].at < SAME_MS || s->mark_count == MAX_MARKS))
    s->marks[s->mark_count - 1].end = s->ring.end;
  else
    s->marks[s->mark_count++] = (struct mark){s->ring.end, now};
}

static size_t output_allowance(struct stream *s) {
  size_t room = ring_room(&s->ring);
  if (buffered >= budget && ring_used(&s->ring) >= ALWAYS_ALLOWED) {
    s->starved = any_starved = true;
    return 0;
  }
  return room < SLICE ? room : SLICE;
}

/* A terminal gives a line and its end in two pieces: the second one is worth a moment, for both are one frame then. */
static bool line_goes_on(struct stream *s, uint8_t last) {
  struct pollfd watched = {.fd = s->watch.fd, .events = POLLIN};
  return s->tty && last != '\n' && poll(&watched, 1, LINE_MS) > 0 && watched.revents & POLLIN;
}

static bool output_work(struct stream *s) {
  size_t allowed = output_allowance(s), room;
  uint8_t last = '\n';
  while (s->ready && s->watch.fd >= 0 && allowed) {
    uint8_t *at = ring_tail(&s->ring, &room);
    ssize_t n = RETRY(read(s->watch.fd, at, room < allowed ? room : allowed));
    if (n > 0) {
      last = at[n - 1];
      ring_added(&s->ring, (size_t)n);
      note_time(s);
      buffered += (size_t)n;
      allowed -= (size_t)n;
      if (s->discard) {
        account(ring_drop(&s->ring, s->ring.end));
        s->next = s->ring.end;
      }
    } else if (n < 0 && errno == EAGAIN && line_goes_on(s, last)) {
      last = '\n'; /* waited for once */
    } else if (n < 0 && (errno == EAGAIN || (s->tty && !s->orphan))) {
      /* A terminal that nobody has open (EIO) may be opened again while its process lives, and closing it would send HUP. */
      s->ready = false;
    } else {
      s->ended = true;
      close_end(s);
    }
  }
  want_tx(s);
  return s->ready && s->watch.fd >= 0 && ring_room(&s->ring) && !s->starved;
}

bool streams_work(void) {
  /* One turn for each stream that has something now; a busy one goes to the end of the line. */
  struct stream *stop = TAILQ_LAST(&work_list, stream_list);
  for (struct stream *s; stop && (s = TAILQ_FIRST(&work_list));) {
    TAILQ_REMOVE(&work_list, s, work_link);
    s->in_work = false;
    if (s->kind == S_IN ? input_work(s) : output_work(s))
      want_work(s);
    if (s == stop)
      break;
  }
  return !TAILQ_EMPTY(&work_list);
}

bool streams_pending(void) {
  return !TAILQ_EMPTY(&work_list);
}

/* Frames to the host. */

static size_t offset_frame(uint8_t *out, uint8_t type, uint8_t flags, const struct stream *s, uint64_t offset) {
  put64(out + FRAME_HEADER, offset);
  struct frame f = {.type = type, .flags = flags, .id = s->id, .size = 8};
  return frame_wrap(out, &f);
}

/* The mark of the byte that is sent next; NULL = there is none. */
static const struct mark *find_mark(const struct stream *s) {
  for (unsigned i = 0; i < s->mark_count; i++)
    if (s->marks[i].end > s->next)
      return &s->marks[i];
  return NULL;
}

static size_t write_frame(struct stream *s, uint8_t *out) {
  if (s->kind == S_IN) {
    bool eof = s->closed && s->eof_acked;
    s->ack_due = false;
    return offset_frame(out, F_ACK, s->closed && !eof ? FLAG_CLOSED : 0, s, s->ring.base + eof);
  }
  if (s->next == s->ring.end) {
    s->eof_sent = true;
    return offset_frame(out, F_EOF, 0, s, s->ring.end);
  }
  size_t size, head = 8;
  const uint8_t *at = ring_at(&s->ring, s->next, &size);
  struct frame f = {.type = F_DATA, .id = s->id};
  if (size > MAX_CHUNK)
    size = MAX_CHUNK;
  if (s->next < s->backlog && (stream_port.wishes & FLAG_AGED)) {
    /* It came while no host listened: the host is told how long ago. */
    const struct mark *mark = find_mark(s);
    uint64_t end = mark && mark->end < s->backlog ? mark->end : s->backlog;
    if (end - s->next < size)
      size = (size_t)(end - s->next);
    put32(out + FRAME_HEADER + 8, mark ? (uint32_t)(now_ms() - mark->at) : 0);
    f.flags = FLAG_AGED;
    head = 12;
  }
  put64(out + FRAME_HEADER, s->next);
  memcpy(out + FRAME_HEADER + head, at, size);
  s->next += size;
  f.size = (uint32_t)(size + head);
  return frame_wrap(out, &f);
}

static size_t refill(struct port *p) {
  for (struct stream *s; (s = TAILQ_FIRST(&tx_list));) {
    TAILQ_REMOVE(&tx_list, s, tx_link);
    s->in_tx = false;
    if (!something_to_send(s))
      continue; /* what waited is not wanted any more: this is not the end of the stream */
    size_t size = write_frame(s, p->tx);
    want_tx(s);
    return size;
  }
  return 0;
}

static void greet(struct port *port) {
  (void)port;
  struct stream *s;
  while ((s = TAILQ_FIRST(&tx_list))) {
    TAILQ_REMOVE(&tx_list, s, tx_link);
    s->in_tx = false;
  }
  TAILQ_FOREACH(s, &all, link) {
    s->resumed = false;
    s->backlog = s->ring.end;
    /* A new host cannot know how much of the input was consumed. */
    s->ack_due = s->kind == S_IN && (s->ring.base || s->closed);
    want_tx(s);
  }
}

/* Frames from the host. */

static struct stream *find(uint32_t id) {
  struct stream *s;
  TAILQ_FOREACH(s, &all, link)
    if (s->id == id)
      return s;
  return NULL;
}

static void on_data(struct stream *s, uint64_t offset, const uint8_t *data, size_t size) {
  uint64_t received = s->ring.end;
  if (!s->closed && !s->ended && offset <= received && size > received - offset) {
    size_t known = (size_t)(received - offset);
    buffered += ring_put(&s->ring, data + known, size - known);
    want_work(s);
    return;
  }
  s->ack_due = true; /* at the latest now the host learns where we are */
  want_tx(s);
}

static void on_eof(struct stream *s, uint64_t offset) {
  if (!s->closed && offset == s->ring.end) {
    s->ended = true;
    want_work(s);
    return;
  }
  s->ack_due = true;
  want_tx(s);
}

static void on_ack(struct stream *s, uint64_t offset, bool closed) {
  account(ring_drop(&s->ring, offset));
  s->discard |= closed;
  if (s->discard)
    account(ring_drop(&s->ring, s->ring.end));
  if (s->next < s->ring.base)
    s->next = s->ring.base;
  if (s->ended && offset > s->ring.end) {
    s->eof_sent = s->eof_acked = true;
    ring_close(&s->ring);
  }
  want_work(s);
}

static void on_resume(struct stream *s, uint64_t offset) {
  /* Who wants byte n has all before it. Its acknowledgement may have been lost, and would never come again. */
  on_ack(s, offset, false);
  s->resumed = true;
  s->eof_sent = offset > s->ring.end;
  s->next = offset < s->ring.base ? s->ring.base : offset > s->ring.end ? s->ring.end : offset;
  want_work(s);
  want_tx(s);
}

static void on_frame(struct port *p, const struct frame *f) {
  (void)p;
  struct stream *s = f->size >= 8 ? find(f->id) : NULL;
  if (!s)
    return;
  uint64_t offset = get64(f->payload);
  if (f->type == F_DATA && s->kind == S_IN)
    on_data(s, offset, f->payload + 8, f->size - 8);
  else if (f->type == F_EOF && s->kind == S_IN)
    on_eof(s, offset);
  else if (f->type == F_ACK && s->kind != S_IN)
    on_ack(s, offset, f->flags & FLAG_CLOSED);
  else if (f->type == F_RESUME && s->kind != S_IN)
    on_resume(s, offset);
}

int streams_init(void) {
  struct sysinfo info;
  sysinfo(&info);
  budget = (size_t)info.totalram * info.mem_unit / 16;
  budget = budget < 4u << 20 ? 4u << 20 : budget > 64u << 20 ? 64u << 20 : budget;
  stream_port.frame = on_frame;
  stream_port.refill = refill;
  stream_port.greet = greet;
  return port_init(&stream_port);
}
