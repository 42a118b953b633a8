#define _GNU_SOURCE
#include "process/readfile.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop/status.h"
#include "wire/records.h"

enum { PIECE = 32768 };

static __attribute__((noreturn)) void finish(int status_fd, const struct err *e) {
  if (e)
    status_send_error(status_fd, e);
  else
    status_send(status_fd, M_OK, NULL, 0, NULL, 0);
  _exit(0);
}

static int read_part(const struct readfile_order *order, struct writer *w, struct err *e) {
  struct stat stat;
  if (order->mount_fd >= 0 && setns(order->mount_fd, CLONE_NEWNS) < 0)
    return err_reason(e, errno, "READFILE: entering the container");
  cleanup_fd int fd = open(order->path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &stat) < 0)
    return err_reason(e, errno, "READFILE %.300s", order->path);
  if (!S_ISREG(stat.st_mode))
    return err_reason(e, S_ISDIR(stat.st_mode) ? EISDIR : EINVAL, "READFILE %.300s", order->path);
  uint8_t *data = malloc(order->size + 1);
  if (!data)
    return err_set(e, ENOMEM, "READFILE: no memory");
  size_t have = 0;
  while (have < order->size) {
    ssize_t n = RETRY(pread(fd, data + have, order->size - have, (off_t)(order->offset + have)));
    if (n < 0)
      return err_reason(e, errno, "READFILE %.300s", order->path);
    if (n == 0)
      break;
    have += (size_t)n;
  }
  put_record(w, R_DATA, 2);
  put_number(w, (uint64_t)stat.st_size);
  put_bytes(w, data, have);
  return 0;
}

void readfile_child(int status_fd, void *argument) {
  struct err e = {0};
  static uint8_t answer[READFILE_MAX + 64];
  struct writer w = {answer, 0, sizeof answer, false};
  if (read_part(argument, &w, &e) < 0)
    finish(status_fd, &e);
  for (size_t at = 0; at < w.used; at += PIECE)
    status_send(status_fd, M_OUTPUT, answer + at, w.used - at < PIECE ? w.used - at : PIECE, NULL, 0);
  finish(status_fd, NULL);
}

void quiesce_child(int status_fd, void *unused) {
  (void)unused;
  sync();
  finish(status_fd, NULL);
}
