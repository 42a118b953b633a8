/* Errors, descriptors, numbers, time: what every module uses. */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MAX_PATH_TEXT = 4096 };

/* An error on its way up: functions that can fail take one as last argument and return -1. */
struct err {
  int code; /* an errno, 0 = none */
  char text[512];
};

/* Set the error (text without the reason) and return -1. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The same, ": strerror(code)" added. */
int err_reason(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Repeat a call that a signal interrupted. */
#define RETRY(call)                                                                                \
  ({                                                                                               \
    __typeof__(call) result_;                                                                      \
    do                                                                                             \
      result_ = (call);                                                                            \
    while (result_ < 0 && errno == EINTR);                                                         \
    result_;                                                                                       \
  })

void close_fd(int *fd); /* close and set to -1; keeps errno; fine for -1 */
void free_ptr(void *pointer);
#define cleanup_fd __attribute__((cleanup(close_fd)))
#define cleanup_free __attribute__((cleanup(free_ptr)))

void logf_(const char *fmt, ...) __attribute__((format(printf, 1, 2))); /* one line to the console */

uint64_t now_ms(void);      /* monotonic */
uint64_t realtime_ns(void); /* wall clock */
void pause_us(unsigned us);

/* Strict numbers: digits only (or the base's), nothing before or after. */
bool parse_u64(const char *text, int base, uint64_t max, uint64_t *out);
bool parse_i64(const char *text, int64_t *out);

int write_all(int fd, const void *data, size_t size);              /* -1 with errno */
int copy_bytes(int from, int to);                                  /* until the end of `from`; -1 with errno */
ssize_t read_small(const char *path, char *buffer, size_t size);   /* whole small file, NUL-terminated */
int write_small(const char *path, const char *text);               /* into an existing file */
void *map_private(size_t size); /* pages that forked children do not get; NULL when there is no memory */
void unmap_private(void *pages, size_t size);
void random_bytes(void *buffer, size_t size);

static inline uint16_t get16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static inline uint32_t get32(const uint8_t *p) {
  return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}
static inline uint64_t get64(const uint8_t *p) { return (uint64_t)get32(p) << 32 | get32(p + 4); }
static inline void put16(uint8_t *p, uint16_t v) {
  p[0] = (uint8_t)(v >> 8);
  p[1] = (uint8_t)v;
}
static inline void put32(uint8_t *p, uint32_t v) {
  put16(p, (uint16_t)(v >> 16));
  put16(p + 2, (uint16_t)v);
}
static inline void put64(uint8_t *p, uint64_t v) {
  put32(p, (uint32_t)(v >> 32));
  put32(p + 4, (uint32_t)v);
}
