#define _GNU_SOURCE
#include "loop/status.h"

#include <string.h>
#include <sys/socket.h>

int gate_fd = -1;

int status_send(int status_fd, char type, const void *data, size_t size, const int *fds, unsigned fd_count) {
  union {
    struct cmsghdr align;
    char space[CMSG_SPACE(2 * sizeof(int))];
  } control = {0};
  struct iovec parts[2] = {{&type, 1}, {(void *)data, size}};
  struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
  if (fd_count) {
    message.msg_control = control.space;
    message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){.cmsg_len = CMSG_LEN(fd_count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
  }
  return RETRY(sendmsg(status_fd, &message, MSG_NOSIGNAL)) < 0 ? -1 : 0;
}

void status_send_error(int status_fd, const struct err *e) {
  uint8_t body[4 + sizeof e->text];
  size_t size = strlen(e->text);
  put32(body, (uint32_t)e->code);
  memcpy(body + 4, e->text, size);
  status_send(status_fd, M_ERROR, body, size + 4, NULL, 0);
}
