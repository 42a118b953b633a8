/* Frames: docs/protocol.md, "Frames". No input or output here. */
#pragma once

#include "wire/util.h"

enum {
  FRAME_HEADER = 16,
  FRAME_TRAILER = 4,
  FRAME_OVERHEAD = FRAME_HEADER + FRAME_TRAILER,
  MAX_PAYLOAD = 262144,
  MAX_FRAME = MAX_PAYLOAD + FRAME_OVERHEAD,
  MAX_CHUNK = 65536,
  STREAM_WINDOW = 262144,
  NONCE_SIZE = 16,
  PROTOCOL_VERSION = 1,
};

enum frame_type {
  F_HELLO = 1,
  F_WELCOME = 2,
  F_REQUEST = 3,
  F_RESPONSE = 4,
  F_ERROR = 5,
  F_EVENT = 6,
  F_DATA = 8,
  F_ACK = 9,
  F_EOF = 10,
  F_RESUME = 11,
};
enum { FLAG_CLOSED = 1, FLAG_AGED = 2 };

struct frame {
  uint8_t type, flags;
  uint16_t code;
  uint32_t id, size;
  const uint8_t *payload; /* lives until the next call on the decoder */
};

/* Bytes that were received and not yet used; `buffer` has MAX_FRAME bytes and belongs to the caller. */
struct decoder {
  uint8_t *buffer;
  size_t start, end;
  uint64_t dropped; /* bytes that were part of no good frame */
};

/* Where to put received bytes: at least one byte of room (after decoder_next returned false). */
uint8_t *decoder_room(struct decoder *d, size_t *size);
void decoder_added(struct decoder *d, size_t size);
/* Take the next whole frame; false when more bytes are needed. */
bool decoder_next(struct decoder *d, struct frame *f);

/* Write a frame around a payload that is at out + FRAME_HEADER already; gives the whole size. */
size_t frame_wrap(uint8_t *out, const struct frame *f);
