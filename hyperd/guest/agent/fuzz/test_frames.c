/* Tests of what takes foreign bytes apart: frames, records, rings. `make check`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire/frames.h"
#include "wire/records.h"
#include "wire/ring.h"

static unsigned checks, failures;

#define CHECK(condition)                                                                           \
  do {                                                                                             \
    checks++;                                                                                      \
    if (!(condition)) {                                                                            \
      failures++;                                                                                  \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                              \
    }                                                                                              \
  } while (0)

static unsigned long long state = 1;
static unsigned roll(unsigned below) {
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(state >> 33) % below;
}

static uint8_t wire[3 * MAX_FRAME];
static uint8_t room[MAX_FRAME];

static size_t put_frame(size_t at, uint8_t type, uint32_t id, const void *payload, uint32_t size) {
  struct frame f = {.type = type, .id = id, .size = size};
  memmove(wire + at + FRAME_HEADER, payload, size);
  return at + frame_wrap(wire + at, &f);
}

/* Feed wire[0..size) in pieces of at most `piece` bytes; gives the ids of the frames found. */
static unsigned decode(size_t size, unsigned piece, uint32_t *ids, unsigned most, struct decoder *d) {
  unsigned found = 0;
  *d = (struct decoder){.buffer = room};
  for (size_t at = 0; at < size;) {
    size_t space;
    uint8_t *to = decoder_room(d, &space);
    size_t n = 1 + roll(piece);
    n = n > space ? space : n;
    n = n > size - at ? size - at : n;
    CHECK(n > 0);
    memcpy(to, wire + at, n);
    decoder_added(d, n);
    at += n;
    for (struct frame f; decoder_next(d, &f);)
      if (found < most)
        ids[found++] = f.id;
  }
  return found;
}

static void test_round_trip(void) {
  static const unsigned PIECES[] = {1, 7, 100, 70000};
  for (unsigned i = 0; i < 4; i++) {
    uint32_t ids[3] = {0};
    struct decoder d;
    size_t at = put_frame(0, F_DATA, 11, "abc", 3);
    at = put_frame(at, F_ACK, 22, "", 0);
    memset(wire + at, 0, 50); /* zeros between frames are no error */
    at = put_frame(at + 50, F_EOF, 33, wire, 20000);
    CHECK(decode(at, PIECES[i], ids, 3, &d) == 3);
    CHECK(ids[0] == 11 && ids[1] == 22 && ids[2] == 33);
    CHECK(d.dropped == 0);
  }
}

static void test_largest(void) {
  static uint8_t payload[MAX_PAYLOAD];
  uint32_t ids[2] = {0};
  struct decoder d;
  memset(payload, 'H', sizeof payload);
  size_t at = put_frame(0, F_REQUEST, 1, payload, MAX_PAYLOAD);
  at = put_frame(at, F_REQUEST, 2, "x", 1);
  CHECK(decode(at, 50000, ids, 2, &d) == 2);
  /* One byte more is no frame. */
  put32(wire + 12, MAX_PAYLOAD + 1);
  CHECK(decode(at, 50000, ids, 2, &d) == 1 && ids[0] == 2);
}

static void test_rubbish(void) {
  uint32_t ids[4];
  struct decoder d;
  memcpy(wire, "HHYHYFHYF", 9);
  size_t at = put_frame(9, F_DATA, 5, "abc", 3);
  wire[at++] = 'H';
  at = put_frame(at, F_DATA, 6, "abc", 3);
  CHECK(decode(at, 3, ids, 4, &d) == 2 && ids[0] == 5 && ids[1] == 6);
  CHECK(d.dropped == 10);
}

static void test_bad_trailer_drops_whole_frame(void) {
  /* A payload that holds a frame: if the outer one is broken, the inner one must not be seen. */
  uint8_t inner[64], outer[64];
  uint32_t ids[4];
  struct decoder d;
  struct frame f = {.type = F_REQUEST, .id = 666, .size = 0};
  size_t size = frame_wrap(inner, &f);
  memcpy(outer, inner, size);
  size_t at = put_frame(0, F_DATA, 1, outer, (uint32_t)size);
  wire[at - 1] = 'X';
  at = put_frame(at, F_DATA, 2, "", 0);
  CHECK(decode(at, 5, ids, 4, &d) == 1 && ids[0] == 2);
}

static void test_resynchronisation(void) {
  /* A frame cut off anywhere, then the padding, then a good frame: only the good one is seen. */
  static uint8_t cut[3000];
  for (unsigned i = 0; i < 200; i++) {
    uint32_t ids[4], size = roll(2900);
    struct decoder d;
    memset(cut, 'R', sizeof cut);
    size_t whole = put_frame(0, F_DATA, 1, cut, size);
    size_t at = roll((unsigned)whole);
    memset(wire + at, 0, MAX_FRAME);
    at = put_frame(at + MAX_FRAME, F_HELLO, 9, "n", 1);
    CHECK(decode(at, 70000, ids, 4, &d) == 1 && ids[0] == 9);
  }
}

static void test_records(void) {
  uint8_t buffer[256];
  struct writer w = {buffer, 0, sizeof buffer, false};
  struct record r;
  char text[8];
  uint64_t number = 0;
  put_record(&w, 7, 3);
  put_text(&w, "one");
  put_number(&w, 18446744073709551615u);
  put_bytes(&w, "a\0b", 3);
  put_record(&w, 8, 0);
  struct reader in = {buffer, buffer + w.used};
  CHECK(record_next(&in, &r) == 1 && r.op == 7 && r.count == 3);
  CHECK(record_text(&r, 0, text, sizeof text) && strcmp(text, "one") == 0);
  CHECK(!record_text(&r, 0, text, 3)); /* no room for the NUL */
  CHECK(record_number(&r, 1, UINT64_MAX, &number) && number == UINT64_MAX);
  CHECK(!record_number(&r, 1, 5, &number) && !record_number(&r, 0, 5, &number));
  CHECK(!record_text(&r, 2, text, sizeof text)); /* a zero byte */
  CHECK(!record_text(&r, 3, text, sizeof text)); /* not there */
  CHECK(record_next(&in, &r) == 1 && r.op == 8 && r.count == 0);
  CHECK(record_next(&in, &r) == 0);
  /* Cut anywhere but between the records it is malformed. */
  for (size_t cut = 1; cut < w.used; cut++) {
    struct reader part = {buffer, buffer + cut};
    int result = record_next(&part, &r);
    if (result == 1)
      result = record_next(&part, &r);
    CHECK(result == (cut == w.used - 4 ? 0 : -1));
  }
}

static void test_record_lies(void) {
  uint8_t lie[] = {0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 'x'};
  struct reader in = {lie, lie + sizeof lie};
  struct record r;
  CHECK(record_next(&in, &r) == -1);
}

static void test_writer_full(void) {
  uint8_t buffer[20];
  struct writer w = {buffer, 0, sizeof buffer, false};
  put_record(&w, 1, 2);
  put_text(&w, "0123456789");
  CHECK(!w.full && w.used == 18);
  put_text(&w, "");
  CHECK(w.full && w.used == 18);
}

static void test_ring(void) {
  /* Against a model: byte n of the stream has the value f(n). */
  struct ring r = {0};
  static uint8_t chunk[100000];
  CHECK(ring_open(&r) == 0);
  for (unsigned round = 0; round < 3000; round++) {
    size_t size = roll(sizeof chunk);
    for (size_t i = 0; i < size; i++)
      chunk[i] = (uint8_t)((r.end + i) * 31 >> 3);
    size_t before = ring_room(&r), put = ring_put(&r, chunk, size);
    CHECK(put == (size < before ? size : before));
    uint64_t offset = r.base;
    while (offset < r.end) {
      size_t n, bad = 0;
      const uint8_t *at = ring_at(&r, offset, &n);
      for (size_t i = 0; i < n; i += 97)
        bad += at[i] != (uint8_t)((offset + i) * 31 >> 3);
      CHECK(n > 0 && bad == 0);
      offset += n;
    }
    uint64_t base = r.base, to = base + roll(120000);
    size_t dropped = ring_drop(&r, to);
    CHECK(dropped == (size_t)((to < r.end ? to : r.end) - base) && r.base == base + dropped);
  }
  CHECK(ring_drop(&r, 0) == 0);
  ring_close(&r);
  CHECK(ring_used(&r) == 0);
}

static void test_numbers(void) {
  uint64_t u = 0;
  int64_t i = 0;
  CHECK(parse_u64("0", 10, 9, &u) && u == 0);
  CHECK(parse_u64("755", 8, 07777, &u) && u == 0755);
  CHECK(parse_u64("fFff", 16, UINT64_MAX, &u) && u == 0xffff);
  CHECK(!parse_u64("", 10, 9, &u) && !parse_u64("-1", 10, 9, &u) && !parse_u64(" 1", 10, 9, &u) && !parse_u64("1 ", 10, 9, &u));
  CHECK(!parse_u64("8", 8, 99, &u) && !parse_u64("10", 10, 9, &u));
  CHECK(!parse_u64("18446744073709551616", 10, UINT64_MAX, &u) && !parse_u64("99999999999999999999", 10, UINT64_MAX, &u));
  CHECK(parse_i64("-12", &i) && i == -12 && !parse_i64("--1", &i) && !parse_i64("-", &i));
}

int main(void) {
  test_round_trip();
  test_largest();
  test_rubbish();
  test_bad_trailer_drops_whole_frame();
  test_resynchronisation();
  test_records();
  test_record_lies();
  test_writer_full();
  test_ring();
  test_numbers();
  printf("%u checks, %u failures\n", checks, failures);
  return failures ? 1 : 0;
}
