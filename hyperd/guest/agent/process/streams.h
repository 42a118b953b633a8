/* The three byte streams of a process (docs/protocol.md, "Streams"). */
#pragma once

#include <sys/queue.h>

#include "loop/loop.h"
#include "loop/port.h"
#include "wire/ring.h"

enum stream_kind { S_IN, S_OUT, S_ERR };

/* When a piece of an output came: everything before `end` that belongs to no earlier mark. */
struct mark {
  uint64_t end, at; /* at: now_ms() */
};

enum { MAX_MARKS = 32 };

struct stream {
  struct watch watch; /* the pipe or terminal; -1 = closed */
  struct ring ring;
  uint32_t id;
  enum stream_kind kind;
  bool tty;
  bool orphan;  /* the process has exited */
  bool live;    /* belongs to a process with this stream */
  bool ready;   /* readable (outputs) or writable (input) as far as we know */
  bool starved; /* not read because all buffers together are full */
  bool ended;   /* outputs: the pipe is at its end; input: the host said EOF */
  bool closed;  /* input: no more bytes are taken */
  bool discard; /* outputs: the host wants no more; what comes is dropped */
  bool resumed; /* outputs: may be sent on this connection */
  bool eof_sent, eof_acked, ack_due;
  bool in_work, in_tx;
  uint64_t next;    /* outputs: offset to send next */
  uint64_t backlog; /* outputs: what came before this host did ends here */
  struct mark marks[MAX_MARKS];
  unsigned mark_count;
  TAILQ_ENTRY(stream) link, work_link, tx_link;
};

extern struct port stream_port;

int streams_init(void);
/* Prepare a zeroed stream; -1 when there is no memory. A closed one takes no bytes and says so. */
int stream_open(struct stream *s, enum stream_kind kind, uint32_t id, bool closed);
/* Join it with a pipe or terminal (non-blocking); takes the descriptor. */
int stream_attach(struct stream *s, int fd, bool tty);
void stream_orphan(struct stream *s); /* the process has exited */
void stream_close(struct stream *s);  /* forget everything */
bool streams_work(void);
bool streams_pending(void); /* is there work for streams_work? */
