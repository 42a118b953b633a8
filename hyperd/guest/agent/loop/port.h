/* One of the two byte pipes to the host: a virtio-serial port, or (in test mode) a unix socket that is listened on. */
#pragma once

#include "wire/frames.h"
#include "loop/loop.h"

struct port {
  struct watch watch;
  struct watch listener; /* test mode only */
  struct decoder decoder;
  bool readable, writable;
  bool greeted;        /* a HELLO came: frames may be sent */
  uint8_t wishes;      /* the flags of that HELLO */
  uint32_t generation; /* number of HELLOs so far */
  uint8_t *tx;         /* the frame that is being written, MAX_FRAME bytes */
  size_t tx_done, tx_size;
  void (*frame)(struct port *p, const struct frame *f); /* everything but HELLO */
  size_t (*refill)(struct port *p);                     /* write the next frame into tx, give its size, 0 = none */
  void (*greet)(struct port *p);                        /* a HELLO came: forget what was queued */
};

int port_init(struct port *p);
/* Open the device of a virtio port by its name; waits for it. */
int port_open_device(struct port *p, const char *name, unsigned timeout_ms);
int port_listen(struct port *p, const char *path);
/* Read and write what is possible now, within bounds; true while there is more to do. */
bool port_work(struct port *p);
