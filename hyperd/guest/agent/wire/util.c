#define _GNU_SOURCE
#include "wire/util.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#ifndef GRND_INSECURE
#define GRND_INSECURE 4
#endif

int err_set(struct err *e, int code, const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  e->code = code ? code : EIO;
  vsnprintf(e->text, sizeof e->text, fmt, args);
  va_end(args);
  return -1;
}

int err_reason(struct err *e, int code, const char *fmt, ...) {
  va_list args;
  e->code = code ? code : EIO;
  const char *reason = strerror(e->code);
  va_start(args, fmt);
  /* A long name must not push the reason out. */
  int room = (int)(sizeof e->text - strlen(reason) - 3);
  int used = vsnprintf(e->text, (size_t)room, fmt, args);
  va_end(args);
  if (used < 0 || used >= room)
    used = used < 0 ? 0 : room - 1;
  snprintf(e->text + used, sizeof e->text - (size_t)used, ": %s", reason);
  return -1;
}

void close_fd(int *fd) {
  if (*fd < 0)
    return;
  int saved = errno;
  close(*fd);
  errno = saved;
  *fd = -1;
}

void free_ptr(void *pointer) { free(*(void **)pointer); }

void logf_(const char *fmt, ...) {
  char line[600];
  va_list args;
  va_start(args, fmt);
  int used = vsnprintf(line, sizeof line - 1, fmt, args);
  va_end(args);
  if (used < 0)
    return;
  if ((size_t)used > sizeof line - 2)
    used = (int)sizeof line - 2;
  line[used] = '\n';
  dprintf(2, "hyper-agent: %.*s", used + 1, line);
}

static uint64_t clock_ns(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t now_ms(void) { return clock_ns(CLOCK_MONOTONIC) / 1000000u; }
uint64_t realtime_ns(void) { return clock_ns(CLOCK_REALTIME); }

void pause_us(unsigned us) {
  struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};
  nanosleep(&t, NULL);
}

static int digit(char c) {
  if (c >= '0' && c <= '9')
    return c - '0';
  c = (char)(c | 0x20);
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

bool parse_u64(const char *text, int base, uint64_t max, uint64_t *out) {
  uint64_t value = 0;
  if (!*text)
    return false;
  for (; *text; text++) {
    int d = digit(*text);
    if (d >= base || value > (max - (uint64_t)d) / (uint64_t)base)
      return false;
    value = value * (uint64_t)base + (uint64_t)d;
  }
  *out = value;
  return true;
}

bool parse_i64(const char *text, int64_t *out) {
  bool negative = *text == '-';
  uint64_t value;
  if (!parse_u64(text + negative, 10, INT64_MAX, &value))
    return false;
  *out = negative ? -(int64_t)value : (int64_t)value;
  return true;
}

int write_all(int fd, const void *data, size_t size) {
  const char *at = data;
  while (size) {
    ssize_t n = RETRY(write(fd, at, size));
    if (n < 0)
      return -1;
    at += n;
    size -= (size_t)n;
  }
  return 0;
}

int copy_bytes(int from, int to) {
  static char buffer[65536];
  for (;;) {
    ssize_t count = RETRY(read(from, buffer, sizeof buffer));
    if (count <= 0)
      return (int)count;
    if (write_all(to, buffer, (size_t)count) < 0)
      return -1;
  }
}

ssize_t read_small(const char *path, char *buffer, size_t size) {
  cleanup_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return -1;
  size_t have = 0;
  while (have < size - 1) {
    ssize_t n = RETRY(read(fd, buffer + have, size - 1 - have));
    if (n < 0)
      return -1;
    if (n == 0)
      break;
    have += (size_t)n;
  }
  buffer[have] = 0;
  return (ssize_t)have;
}

int write_small(const char *path, const char *text) {
  cleanup_fd int fd = open(path, O_WRONLY | O_CLOEXEC);
  return fd < 0 ? -1 : write_all(fd, text, strlen(text));
}

void *map_private(size_t size) {
  void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED)
    return NULL;
  /* A container's init is a fork that lives long: it must not keep copies of our buffers. */
  madvise(pages, size, MADV_DONTFORK);
  return pages;
}

void unmap_private(void *pages, size_t size) {
  if (pages)
    munmap(pages, size);
}

void random_bytes(void *buffer, size_t size) {
  /* Early in the boot the kernel's pool may not be ready; these bytes only need to differ between starts. */
  if (getrandom(buffer, size, GRND_INSECURE) == (ssize_t)size)
    return;
  uint64_t seed = realtime_ns() ^ clock_ns(CLOCK_MONOTONIC) ^ (uint64_t)getpid() << 32;
  for (size_t i = 0; i < size; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    ((uint8_t *)buffer)[i] = (uint8_t)(seed >> 56);
  }
}
