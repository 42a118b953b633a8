/* Records: docs/protocol.md, "Records". No input or output here. */
#pragma once

#include "wire/util.h"

struct slice {
  const uint8_t *at;
  uint32_t size;
};

struct record {
  uint16_t op, count;
  const uint8_t *args; /* `count` times length and bytes, checked */
};

struct reader {
  const uint8_t *at, *end;
};

/* 1: a record was read, 0: end, -1: malformed. */
int record_next(struct reader *r, struct record *out);
/* Walk over the arguments of a record that record_next() gave: start with *at = record.args. */
struct slice record_arg(const uint8_t **at);
/* Copy argument `index` as text; false when it is missing, too long or has a NUL inside. */
bool record_text(const struct record *r, unsigned index, char *out, size_t size);
bool record_number(const struct record *r, unsigned index, uint64_t max, uint64_t *out);

/* Writes records into a fixed buffer; what does not fit sets `full` and is left out from there on. */
struct writer {
  uint8_t *buffer;
  size_t used, size;
  bool full;
};

void put_record(struct writer *w, uint16_t op, uint16_t count);
void put_bytes(struct writer *w, const void *data, size_t size);
void put_text(struct writer *w, const char *text);
void put_number(struct writer *w, uint64_t value);

/* Results' ops. The host does not look at them; they make dumps readable. */
enum {
  R_TEXT = 100,
  R_INFO = 101,
  R_PID = 102,
  R_STATE = 103,
  R_STAT = 104,
  R_DATA = 105,
  R_EXIT = 106,
};
