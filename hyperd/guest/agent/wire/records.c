#define _GNU_SOURCE
#include "wire/records.h"

#include <stdio.h>
#include <string.h>

int record_next(struct reader *r, struct record *out) {
  if (r->at == r->end)
    return 0;
  if (r->end - r->at < 4)
    return -1;
  *out = (struct record){get16(r->at), get16(r->at + 2), r->at + 4};
  const uint8_t *at = out->args;
  for (unsigned i = 0; i < out->count; i++) {
    if (r->end - at < 4)
      return -1;
    uint32_t size = get32(at);
    at += 4;
    if ((size_t)(r->end - at) < size)
      return -1;
    at += size;
  }
  r->at = at;
  return 1;
}

struct slice record_arg(const uint8_t **at) {
  struct slice arg = {*at + 4, get32(*at)};
  *at += 4 + arg.size;
  return arg;
}

bool record_text(const struct record *r, unsigned index, char *out, size_t size) {
  if (index >= r->count)
    return false;
  const uint8_t *at = r->args;
  struct slice arg = record_arg(&at);
  while (index--)
    arg = record_arg(&at);
  if (arg.size >= size || memchr(arg.at, 0, arg.size))
    return false;
  memcpy(out, arg.at, arg.size);
  out[arg.size] = 0;
  return true;
}

bool record_number(const struct record *r, unsigned index, uint64_t max, uint64_t *out) {
  char text[24];
  return record_text(r, index, text, sizeof text) && parse_u64(text, 10, max, out);
}

static uint8_t *take(struct writer *w, size_t size) {
  if (w->full || w->size - w->used < size) {
    w->full = true;
    return NULL;
  }
  uint8_t *at = w->buffer + w->used;
  w->used += size;
  return at;
}

void put_record(struct writer *w, uint16_t op, uint16_t count) {
  uint8_t *at = take(w, 4);
  if (at) {
    put16(at, op);
    put16(at + 2, count);
  }
}

void put_bytes(struct writer *w, const void *data, size_t size) {
  uint8_t *at = take(w, 4 + size);
  if (at) {
    put32(at, (uint32_t)size);
    memcpy(at + 4, data, size);
  }
}

void put_text(struct writer *w, const char *text) { put_bytes(w, text, strlen(text)); }

void put_number(struct writer *w, uint64_t value) {
  char text[24];
  snprintf(text, sizeof text, "%llu", (unsigned long long)value);
  put_text(w, text);
}
