#define _GNU_SOURCE
#include "loop/port.h"

#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { ROUND_BYTES = 1 << 20 }; /* per round and direction, so that no port starves the rest */

static uint8_t boot_id[NONCE_SIZE];

int port_init(struct port *p) {
  static bool known;
  if (!known)
    random_bytes(boot_id, sizeof boot_id);
  known = true;
  p->watch.fd = p->listener.fd = -1;
  p->decoder = (struct decoder){.buffer = map_private(MAX_FRAME)};
  p->tx = map_private(MAX_FRAME);
  return p->decoder.buffer && p->tx ? 0 : -1;
}

static void port_event(struct watch *w, uint32_t events) {
  struct port *p = (struct port *)((char *)w - offsetof(struct port, watch));
  /* HUP is no reason to do anything: a virtio port has it while no host is there, and HELLO tells of the next one. */
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
    p->readable = true;
  if (events & EPOLLOUT)
    p->writable = true;
}

static int use_fd(struct port *p, int fd) {
  p->watch = (struct watch){fd, port_event};
  p->readable = p->writable = true;
  return loop_add(&p->watch, EPOLLIN | EPOLLOUT);
}

static int find_device(const char *name, char *out, size_t size) {
  DIR *dir = opendir("/sys/class/virtio-ports");
  int found = -1;
  for (struct dirent *e; dir && (e = readdir(dir));) {
    char path[320], text[128];
    snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", e->d_name);
    if (e->d_name[0] == '.' || read_small(path, text, sizeof text) < 0)
      continue;
    text[strcspn(text, "\n")] = 0;
    if (strcmp(text, name) == 0) {
      snprintf(out, size, "/dev/%s", e->d_name);
      found = 0;
    }
  }
  if (dir)
    closedir(dir);
  return found;
}

int port_open_device(struct port *p, const char *name, unsigned timeout_ms) {
  for (uint64_t end = now_ms() + timeout_ms; now_ms() < end; pause_us(500)) {
    char path[300];
    if (find_device(name, path, sizeof path) < 0)
      continue;
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd >= 0)
      return use_fd(p, fd);
  }
  logf_("no port %s", name);
  return -1;
}

static void hang_up(struct port *p) {
  int fd = p->watch.fd;
  loop_remove(&p->watch);
  close_fd(&fd);
  p->readable = p->writable = p->greeted = false;
  p->tx_size = p->tx_done = 0;
}

static void accept_host(struct watch *w, uint32_t events) {
  struct port *p = (struct port *)((char *)w - offsetof(struct port, listener));
  (void)events;
  for (int fd; (fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
    hang_up(p);
    if (use_fd(p, fd) < 0)
      hang_up(p);
  }
}

int port_listen(struct port *p, const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path)
    return -1;
  memcpy(address.sun_path, path, strlen(path) + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  unlink(path);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0) {
    close_fd(&fd);
    return -1;
  }
  p->listener = (struct watch){fd, accept_host};
  return loop_add(&p->listener, EPOLLIN);
}

static void hello(struct port *p, const struct frame *f) {
  if (f->size < NONCE_SIZE)
    return;
  uint8_t *out = p->tx + FRAME_HEADER;
  memcpy(out, f->payload, NONCE_SIZE);
  put32(out + NONCE_SIZE, PROTOCOL_VERSION);
  memcpy(out + NONCE_SIZE + 4, boot_id, NONCE_SIZE);
  struct frame welcome = {.type = F_WELCOME, .size = NONCE_SIZE + 4 + NONCE_SIZE};
  /* What is left of a frame is thrown away: the host looks for its nonce. */
  p->tx_size = frame_wrap(p->tx, &welcome);
  p->tx_done = 0;
  p->greeted = true;
  p->wishes = f->flags;
  p->generation++;
  p->greet(p);
}

static void dispatch(struct port *p) {
  struct frame f;
  while (decoder_next(&p->decoder, &f)) {
    if (f.type == F_HELLO)
      hello(p, &f);
    else if (p->greeted)
      p->frame(p, &f);
  }
}

static bool work_in(struct port *p) {
  for (size_t done = 0; p->readable;) {
    if (done >= ROUND_BYTES)
      return true;
    size_t room;
    uint8_t *at = decoder_room(&p->decoder, &room);
    ssize_t n = RETRY(read(p->watch.fd, at, room));
    if (n > 0) {
      decoder_added(&p->decoder, (size_t)n);
      dispatch(p);
      done += (size_t)n;
    } else if (p->listener.fd >= 0 && (n == 0 || errno != EAGAIN)) {
      hang_up(p);
    } else {
      p->readable = false; /* nothing there, or no host: an edge will tell */
    }
  }
  return false;
}

static bool work_out(struct port *p) {
  for (size_t done = 0; p->writable;) {
    if (p->tx_done == p->tx_size) {
      p->tx_done = 0;
      p->tx_size = p->greeted ? p->refill(p) : 0;
      if (p->tx_size == 0)
        return false;
    }
    if (done >= ROUND_BYTES)
      return true;
    ssize_t n = RETRY(write(p->watch.fd, p->tx + p->tx_done, p->tx_size - p->tx_done));
    if (n >= 0) {
      p->tx_done += (size_t)n;
      done += (size_t)n;
    } else if (errno != EAGAIN && p->listener.fd >= 0) {
      hang_up(p);
    } else {
      p->writable = false;
    }
  }
  return false;
}

bool port_work(struct port *p) {
  if (p->watch.fd < 0)
    return false;
  bool more_in = work_in(p);
  bool more_out = work_out(p);
  return more_in || more_out;
}
