#define _GNU_SOURCE
/* Writing archives: ustar, with pax records for what does not fit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tools/carrier.h"
#include "tools/tar.h"

static char buffer[TAR_BUFFER] __attribute__((aligned(4096)));
static size_t used;

int text_add(struct text *t, const void *data, size_t size) {
  if (t->size + size + 1 > t->room) {
    size_t room = (t->size + size + 1) * 2;
    char *grown = realloc(t->at, room);
    if (!grown)
      return -1;
    t->at = grown;
    t->room = room;
  }
  memcpy(t->at + t->size, data, size);
  t->size += size;
  t->at[t->size] = 0;
  return 0;
}

int tar_flush(void) {
  size_t size = used;
  used = 0;
  return carrier_write(buffer, size);
}

char *tar_room(size_t *size) {
  if (used == sizeof buffer && tar_flush() < 0)
    return NULL;
  *size = sizeof buffer - used;
  return buffer + used;
}

void tar_added(size_t size) { used += size; }

int tar_write(const void *data, size_t size) {
  const char *at = data;
  while (size) {
    if (used == sizeof buffer && tar_flush() < 0)
      return -1;
    size_t part = size < sizeof buffer - used ? size : sizeof buffer - used;
    memcpy(buffer + used, at, part);
    used += part;
    at += part;
    size -= part;
  }
  return 0;
}

int tar_pad(uint64_t size) {
  static const char zeros[TAR_BLOCK];
  return tar_write(zeros, (size_t)(-size % TAR_BLOCK));
}

/* "length key=value\n", the length counting itself. */
int tar_record(struct text *pax, const char *key, const void *value, size_t size) {
  char head[320], digits[24];
  int body = snprintf(head, sizeof head, " %s=", key);
  if (body < 0 || body >= (int)sizeof head) {
    errno = ENAMETOOLONG;
    return -1;
  }
  size_t length = (size_t)body + size + 1, count = 0;
  for (size_t last = 0; length != last;) {
    last = length;
    count = (size_t)snprintf(digits, sizeof digits, "%zu", length);
    length = (size_t)body + size + 1 + count;
  }
  if (text_add(pax, digits, count) < 0 || text_add(pax, head, (size_t)body) < 0 || text_add(pax, value, size) < 0)
    return -1;
  return text_add(pax, "\n", 1);
}

static int number_record(struct text *pax, const char *key, uint64_t value) {
  char text[24];
  return tar_record(pax, key, text, (size_t)snprintf(text, sizeof text, "%llu", (unsigned long long)value));
}

static int time_record(struct text *pax, const struct timespec *t) {
  char text[40];
  long long seconds = t->tv_sec;
  long nano = t->tv_nsec;
  const char *sign = "";
  if (seconds < 0) { /* -1.5 is two seconds before the epoch and half a second after that */
    sign = "-";
    seconds = nano ? -seconds - 1 : -seconds;
    nano = nano ? 1000000000 - nano : 0;
  }
  int size = snprintf(text, sizeof text, nano ? "%s%lld.%09ld" : "%s%lld", sign, seconds, nano);
  return tar_record(pax, "mtime", text, (size_t)size);
}

static bool is_utf8(const char *text) {
  const uint8_t *at = (const uint8_t *)text;
  while (*at) {
    int more = *at < 0x80 ? 0 : *at >= 0xC2 && *at < 0xE0 ? 1 : (*at & 0xF0) == 0xE0 ? 2 : *at >= 0xF0 && *at < 0xF5 ? 3 : -1;
    if (more < 0 || (*at == 0xE0 && at[1] < 0xA0) || (*at == 0xED && at[1] > 0x9F) || (*at == 0xF0 && at[1] < 0x90) ||
        (*at == 0xF4 && at[1] > 0x8F))
      return false;
    for (at++; more; more--, at++)
      if ((*at & 0xC0) != 0x80)
        return false;
  }
  return true;
}

static bool fits(uint64_t value, size_t width) { return value < (uint64_t)1 << 3 * (width - 1); }

static void octal(char *field, size_t width, uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, "%0*llo", (int)width - 1, (unsigned long long)(fits(value, width) ? value : 0));
  memcpy(field, text, width);
}

static void seal(struct tar_header *h) {
  unsigned sum = 0;
  memcpy(h->magic, "ustar", 6);
  memcpy(h->version, "00", 2);
  memset(h->checksum, ' ', sizeof h->checksum);
  for (size_t i = 0; i < sizeof *h; i++)
    sum += ((const uint8_t *)h)[i];
  snprintf(h->checksum, sizeof h->checksum, "%06o", sum);
}

static int write_pax(const struct text *pax) {
  struct tar_header h = {.name = "././@pax", .kind = 'x'};
  octal(h.mode, sizeof h.mode, 0);
  octal(h.uid, sizeof h.uid, 0);
  octal(h.gid, sizeof h.gid, 0);
  octal(h.size, sizeof h.size, pax->size);
  octal(h.mtime, sizeof h.mtime, 0);
  seal(&h);
  return tar_write(&h, sizeof h) < 0 || tar_write(pax->at, pax->size) < 0 || tar_pad(pax->size) < 0 ? -1 : 0;
}

/* What the fields of the header cannot hold. */
static int add_records(struct tar_member *m, struct text *pax) {
  const struct stat *s = m->stat;
  size_t name = strlen(m->name), link = strlen(m->link);
  bool long_name = name > 100, long_link = link > 100;
  if (((long_name && !is_utf8(m->name)) || (long_link && !is_utf8(m->link))) && tar_record(pax, "hdrcharset", "BINARY", 6) < 0)
    return -1;
  if ((long_name && tar_record(pax, "path", m->name, name) < 0) || (long_link && tar_record(pax, "linkpath", m->link, link) < 0))
    return -1;
  if ((!fits(s->st_uid, 8) && number_record(pax, "uid", s->st_uid) < 0) ||
      (!fits(s->st_gid, 8) && number_record(pax, "gid", s->st_gid) < 0) || (!fits(m->size, 12) && number_record(pax, "size", m->size) < 0))
    return -1;
  bool plain = s->st_mtim.tv_nsec == 0 && s->st_mtim.tv_sec >= 0 && fits((uint64_t)s->st_mtim.tv_sec, 12);
  return plain ? 0 : time_record(pax, &s->st_mtim);
}

int tar_member(struct tar_member *m) {
  const struct stat *s = m->stat;
  struct tar_header h = {.kind = m->kind};
  struct text pax = {0};
  int result = add_records(m, &pax);
  if (result == 0 && m->pax.size)
    result = text_add(&pax, m->pax.at, m->pax.size);
  if (result == 0 && pax.size)
    result = write_pax(&pax);
  free(pax.at);
  if (result < 0)
    return -1;
  memcpy(h.name, m->name, strnlen(m->name, sizeof h.name));
  memcpy(h.link, m->link, strnlen(m->link, sizeof h.link));
  octal(h.mode, sizeof h.mode, s->st_mode & 07777);
  octal(h.uid, sizeof h.uid, s->st_uid);
  octal(h.gid, sizeof h.gid, s->st_gid);
  octal(h.size, sizeof h.size, m->size);
  octal(h.mtime, sizeof h.mtime, s->st_mtim.tv_sec > 0 ? (uint64_t)s->st_mtim.tv_sec : 0);
  if (m->kind == '3' || m->kind == '4') {
    octal(h.major, sizeof h.major, major(s->st_rdev));
    octal(h.minor, sizeof h.minor, minor(s->st_rdev));
  }
  seal(&h);
  return tar_write(&h, sizeof h);
}
