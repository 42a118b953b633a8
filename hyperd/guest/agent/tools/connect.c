#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tools/tools.h"

enum { BLOCK = 65536 };

/* One direction: what was read and waits to be written. */
struct way {
  int from, to;
  size_t at, end;
  bool over; /* nothing more comes, or nobody takes it */
  char data[BLOCK];
};

static int local(int family, uint16_t port) {
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -1;
  int done = family == AF_INET ? connect(fd, (struct sockaddr *)&v4, sizeof v4) : connect(fd, (struct sockaddr *)&v6, sizeof v6);
  if (done == 0)
    return fd;
  int error = errno;
  close(fd);
  errno = error;
  return -1;
}

static void finish(struct way *way) {
  way->over = true;
  way->at = way->end = 0;
  shutdown(way->to, SHUT_WR); /* of the connection; our end closes stdout */
}

/* Move what can be moved now. Writes never wait, so that a direction that is stuck does not hold the other one. */
static void move(struct way *way, bool readable) {
  if (way->over)
    return;
  if (readable && way->end == 0) {
    ssize_t got = RETRY(read(way->from, way->data, BLOCK));
    if (got <= 0) {
      if (got == 0 || errno != EAGAIN)
        finish(way);
      return;
    }
    way->end = (size_t)got;
  }
  if (way->at < way->end) {
    ssize_t put = RETRY(write(way->to, way->data + way->at, way->end - way->at));
    if (put < 0 && errno != EAGAIN)
      finish(way);
    else if (put > 0 && (way->at += (size_t)put) == way->end)
      way->at = way->end = 0;
  }
}

int connect_port(const char *text) {
  static struct way in, out;
  uint64_t port;
  if (!parse_u64(text, 10, 65535, &port) || port == 0)
    return tool_failed("%s is no port", text);
  int fd = local(AF_INET, (uint16_t)port);
  int error = errno;
  if (fd < 0)
    fd = local(AF_INET6, (uint16_t)port);
  if (fd < 0)
    return tool_failed("port %s: %s", text, strerror(error));
  signal(SIGPIPE, SIG_IGN);
  fcntl(fd, F_SETFL, O_NONBLOCK);
  fcntl(1, F_SETFL, O_NONBLOCK);
  in.from = 0, in.to = fd, out.from = fd, out.to = 1;
  /* The end of what the program sends is the end: what the client still says reaches nobody. */
  while (!out.over) {
    struct pollfd polled[4] = {
        {in.over || in.end ? -1 : in.from, POLLIN, 0},
        {in.end ? in.to : -1, POLLOUT, 0},
        {out.end ? -1 : out.from, POLLIN, 0},
        {out.end ? out.to : -1, POLLOUT, 0},
    };
    if (RETRY(poll(polled, 4, -1)) < 0)
      return tool_failed("port %s: %s", text, strerror(errno));
    if (polled[0].revents || polled[1].revents)
      move(&in, polled[0].revents != 0);
    if (polled[2].revents || polled[3].revents)
      move(&out, polled[2].revents != 0);
  }
  return 0;
}
