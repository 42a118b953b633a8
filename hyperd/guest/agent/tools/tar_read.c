#define _GNU_SOURCE
#include "tools/tar_read.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "tools/carrier.h"

enum { MAX_PIECES = 1 << 16 };

static char buffer[TAR_BUFFER] __attribute__((aligned(CARRIER_PAGE)));
static size_t have, used;
static uint64_t left, padding, all; /* of the present member's data; all of it */
static struct text long_name, long_link;

static const char CUT[] = "the archive is cut off", BAD[] = "the archive is damaged";

/* At least one byte in the buffer; 0 at the end. What is read next of a file begins at a page of it if that can be. */
static ssize_t fill(void) {
  if (used < have)
    return 1;
  size_t beyond = left ? (size_t)((all - left) % CARRIER_PAGE / CARRIER_UNIT * CARRIER_UNIT) : 0;
  ssize_t count = carrier_read(buffer, beyond ? CARRIER_PAGE - beyond : sizeof buffer);
  used = 0;
  have = count > 0 ? (size_t)count : 0;
  return count;
}

static int exactly(void *out, size_t size, const char **why) {
  char *at = out;
  while (size) {
    ssize_t more = fill();
    if (more <= 0) {
      *why = more < 0 ? NULL : CUT;
      return -1;
    }
    size_t part = size < have - used ? size : have - used;
    if (at) {
      memcpy(at, buffer + used, part);
      at += part;
    }
    used += part;
    size -= part;
  }
  return 0;
}

static int skip(uint64_t size, const char **why) {
  while (size) {
    size_t part = size < TAR_BUFFER ? (size_t)size : TAR_BUFFER;
    if (exactly(NULL, part, why) < 0)
      return -1;
    size -= part;
  }
  return 0;
}

/* Octal, blanks around it; or base 256 (GNU tar). */
static bool number(const char *field, size_t width, uint64_t *out) {
  uint64_t value = 0;
  size_t i = 0;
  if (*field & 0x80) {
    if (*field & 0x7f)
      return false; /* negative, or beyond 88 bits */
    for (i = 1; i < width; i++) {
      if (value >> 56)
        return false;
      value = value << 8 | (uint8_t)field[i];
    }
    *out = value;
    return value <= INT64_MAX;
  }
  while (i < width && field[i] == ' ')
    i++;
  for (; i < width && field[i] >= '0' && field[i] <= '7'; i++) {
    if (value >> 60)
      return false;
    value = value << 3 | (uint64_t)(field[i] - '0');
  }
  *out = value;
  return value <= INT64_MAX && (i == width || field[i] == 0 || field[i] == ' ');
}

static bool checked(const struct tar_header *h) {
  unsigned sum = 0;
  uint64_t want;
  for (size_t i = 0; i < sizeof *h; i++)
    sum += i >= 148 && i < 156 ? ' ' : ((const uint8_t *)h)[i];
  return number(h->checksum, sizeof h->checksum, &want) && want == sum;
}

static bool is_zero(const struct tar_header *h) {
  const char *at = (const char *)h;
  return *at == 0 && memcmp(at, at + 1, sizeof *h - 1) == 0;
}

/* Read a header's data (names, records) into a text. */
static int read_meta(const struct tar_header *h, struct text *out, const char **why) {
  uint64_t size;
  *why = BAD;
  if (!number(h->size, sizeof h->size, &size) || size > TAR_META)
    return -1;
  char *data = malloc((size_t)size + 1);
  *why = NULL;
  if (!data)
    return -1;
  int result = exactly(data, (size_t)size, why) < 0 || skip(-size % TAR_BLOCK, why) < 0 ? -1 : 0;
  if (result == 0)
    result = text_add(out, data, (size_t)size);
  free(data);
  return result;
}

bool tar_pax_next(const struct text *pax, const char **at, const char **key, const char **value, size_t *size) {
  if (!pax->at)
    return false;
  char *start = *at ? (char *)*at : pax->at, *end = pax->at + pax->size;
  size_t length = 0;
  char *c = start;
  if (start >= end)
    return false;
  while (c < end && *c >= '0' && *c <= '9' && length < TAR_META)
    length = length * 10 + (size_t)(*c++ - '0');
  if (c == start || c == end || (*c != ' ' && *c != 0) || length < 5 || length > (size_t)(end - start) || start[length - 1] != '\n')
    return false;
  *key = ++c;
  char *stop = start + length - 1;
  while (c < stop && *c != '=' && *c != 0)
    c++;
  if (c >= stop)
    return false;
  *c = 0; /* the key ends here, also when it is read once more */
  *value = c + 1;
  *size = (size_t)(stop - *value);
  *at = start + length;
  return true;
}

/* All of the records must be well formed. */
static bool good_pax(const struct text *pax) {
  const char *at = NULL, *key, *value;
  size_t size;
  unsigned count = 0;
  while (tar_pax_next(pax, &at, &key, &value, &size))
    if (++count > MAX_RECORDS)
      return false;
  return pax->size == 0 || at == pax->at + pax->size;
}

static bool decimal(const char *value, size_t size, uint64_t *out) {
  char text[24];
  if (size == 0 || size >= sizeof text)
    return false;
  memcpy(text, value, size);
  text[size] = 0;
  return parse_u64(text, 10, INT64_MAX, out);
}

static bool pax_time(const char *value, size_t size, struct timespec *out) {
  bool negative = size && *value == '-';
  const char *dot = memchr(value, '.', size);
  size_t whole = dot ? (size_t)(dot - value) : size;
  uint64_t seconds;
  long nano = 0, scale = 100000000;
  if (!decimal(value + negative, whole - negative, &seconds))
    return false;
  for (const char *c = dot ? dot + 1 : NULL; c && c < value + size; c++, scale /= 10) {
    if (*c < '0' || *c > '9')
      return false;
    nano += (*c - '0') * scale;
  }
  out->tv_sec = negative ? -(time_t)seconds - (nano != 0) : (time_t)seconds;
  out->tv_nsec = negative && nano ? 1000000000 - nano : nano;
  return true;
}

static bool set_text(char **out, const char *value, size_t size) {
  char *copy = memchr(value, 0, size) ? NULL : strndup(value, size);
  if (!copy)
    return false;
  free(*out);
  *out = copy;
  return true;
}

/* "offset,length,..." of pax 0.1 */
static bool sparse_map(struct tar_entry *out, const char *value, size_t size) {
  const char *end = value + size;
  size_t room = 16;
  free(out->pieces);
  out->pieces = calloc(room, sizeof *out->pieces);
  out->piece_count = 0;
  while (out->pieces && value < end && out->piece_count < MAX_PIECES) {
    const char *comma = memchr(value, ',', (size_t)(end - value));
    const char *next = comma ? memchr(comma + 1, ',', (size_t)(end - comma - 1)) : NULL;
    struct tar_piece piece;
    if (!comma || !decimal(value, (size_t)(comma - value), &piece.offset) ||
        !decimal(comma + 1, (size_t)((next ? next : end) - comma - 1), &piece.size))
      return false;
    if (out->piece_count == room) {
      struct tar_piece *grown = realloc(out->pieces, (room *= 2) * sizeof *grown);
      if (!grown)
        return false;
      out->pieces = grown;
    }
    out->pieces[out->piece_count++] = piece;
    value = next ? next + 1 : end;
  }
  return out->pieces && value == end;
}

static bool take_record(struct tar_entry *e, const char *key, const char *value, size_t size, uint64_t *stored, bool *map_before) {
  if (strcmp(key, "path") == 0)
    return set_text(&e->name, value, size);
  if (strcmp(key, "linkpath") == 0)
    return set_text(&e->link, value, size);
  if (strcmp(key, "GNU.sparse.name") == 0)
    return set_text(&e->name, value, size);
  if (strcmp(key, "size") == 0)
    return decimal(value, size, stored);
  if (strcmp(key, "uid") == 0)
    return decimal(value, size, &e->uid);
  if (strcmp(key, "gid") == 0)
    return decimal(value, size, &e->gid);
  if (strcmp(key, "mtime") == 0)
    return pax_time(value, size, &e->mtime);
  if (strcmp(key, "GNU.sparse.realsize") == 0 || strcmp(key, "GNU.sparse.size") == 0)
    return decimal(value, size, &e->size);
  if (strcmp(key, "GNU.sparse.map") == 0)
    return sparse_map(e, value, size);
  if (strcmp(key, "GNU.sparse.major") == 0)
    *map_before = true;
  return true;
}

/* The map of GNU tar's old format: 12 + 12 bytes a piece, in the header and in blocks behind it. */
static bool old_pairs(struct tar_entry *e, const char *at, size_t count) {
  for (size_t i = 0; i < count && at[24 * i]; i++) {
    struct tar_piece piece, *grown = realloc(e->pieces, (e->piece_count + 1) * sizeof *grown);
    if (!grown || e->piece_count >= MAX_PIECES || !number(at + 24 * i, 12, &piece.offset) || !number(at + 24 * i + 12, 12, &piece.size)) {
      e->pieces = grown ? grown : e->pieces;
      return false;
    }
    e->pieces = grown;
    e->pieces[e->piece_count++] = piece;
  }
  return true;
}

static int old_sparse(struct tar_entry *e, const struct tar_header *h, const char **why) {
  const char *raw = (const char *)h;
  char more[TAR_BLOCK];
  *why = BAD;
  if (!old_pairs(e, raw + 386, 4) || !number(raw + 483, 12, &e->size))
    return -1;
  for (bool extended = raw[482]; extended; extended = more[504]) {
    if (exactly(more, sizeof more, why) < 0)
      return -1;
    *why = BAD;
    if (!old_pairs(e, more, 21))
      return -1;
  }
  return e->pieces ? 0 : (e->pieces = calloc(1, sizeof *e->pieces)) ? 0 : -1;
}

static int map_line(uint64_t *out, uint64_t *taken, const char **why) {
  char digits[24], c;
  size_t count = 0;
  for (;;) {
    if (*taken >= left || exactly(&c, 1, why) < 0)
      return -1;
    ++*taken;
    if (c == '\n')
      break;
    if (count >= sizeof digits)
      return -1;
    digits[count++] = c;
  }
  return decimal(digits, count, out) ? 0 : -1;
}

/* Pax 1.0: decimal lines before the data, in whole blocks. */
static int map_before_data(struct tar_entry *e, const char **why) {
  uint64_t count, taken = 0;
  *why = BAD;
  if (map_line(&count, &taken, why) < 0 || count > MAX_PIECES || !(e->pieces = calloc((size_t)count + 1, sizeof *e->pieces)))
    return -1;
  for (; e->piece_count < count; e->piece_count++) {
    struct tar_piece *piece = &e->pieces[e->piece_count];
    if (map_line(&piece->offset, &taken, why) < 0 || map_line(&piece->size, &taken, why) < 0)
      return -1;
  }
  uint64_t rest = -taken % TAR_BLOCK;
  if (taken + rest > left || skip(rest, why) < 0)
    return -1;
  left -= taken + rest;
  return 0;
}

static bool good_map(const struct tar_entry *e) {
  uint64_t at = 0, total = 0;
  if (e->size > INT64_MAX)
    return false; /* no record tells it */
  for (size_t i = 0; i < e->piece_count; i++) {
    const struct tar_piece *piece = &e->pieces[i];
    if (piece->offset < at || piece->offset > e->size || piece->size > e->size - piece->offset)
      return false;
    at = piece->offset + piece->size;
    total += piece->size;
  }
  return total == left;
}

static char *header_name(const struct tar_header *h) {
  char text[sizeof h->prefix + sizeof h->name + 2];
  size_t prefix = memcmp(h->magic, "ustar", 6) == 0 ? strnlen(h->prefix, sizeof h->prefix) : 0;
  memcpy(text, h->prefix, prefix);
  if (prefix)
    text[prefix++] = '/';
  size_t size = strnlen(h->name, sizeof h->name);
  memcpy(text + prefix, h->name, size);
  return strndup(text, prefix + size);
}

static int make_entry(struct tar_entry *e, const struct tar_header *h, const char **why) {
  uint64_t mode, seconds = 0, stored;
  bool map_before = false;
  const char *at = NULL, *key, *value;
  size_t size;
  *why = BAD;
  e->name = long_name.size ? strdup(long_name.at) : header_name(h);
  e->link = long_link.size ? strdup(long_link.at) : strndup(h->link, sizeof h->link);
  if (!e->name || !e->link || !number(h->mode, 8, &mode) || !number(h->uid, 8, &e->uid) || !number(h->gid, 8, &e->gid) ||
      !number(h->size, 12, &stored))
    return -1;
  (void)number(h->mtime, 12, &seconds); /* a time before 1970 in base 256: the epoch will do */
  e->mtime.tv_sec = (time_t)seconds;
  e->mode = (mode_t)mode & 07777;
  e->kind = h->kind == 0 || h->kind == '7' || h->kind == 'S' ? '0' : h->kind;
  size_t length = strlen(e->name);
  if (h->kind == 0 && length && e->name[length - 1] == '/')
    e->kind = '5';
  if (e->kind < '0' || e->kind > '6')
    return -1;
  if ((e->kind == '3' || e->kind == '4') && (!number(h->major, 8, &e->major) || !number(h->minor, 8, &e->minor)))
    return -1;
  e->size = UINT64_MAX;
  while (tar_pax_next(&e->pax, &at, &key, &value, &size))
    if (!take_record(e, key, value, size, &stored, &map_before))
      return -1;
  left = all = e->kind == '0' ? stored : 0;
  padding = -left % TAR_BLOCK;
  if (e->kind == '0' && h->kind == 'S' && old_sparse(e, h, why) < 0)
    return -1;
  if (e->kind == '0' && map_before && map_before_data(e, why) < 0)
    return -1;
  *why = BAD;
  if (!e->pieces || e->kind != '0')
    e->size = left;
  return e->pieces && !good_map(e) ? -1 : 0;
}

static void clear(struct tar_entry *e) {
  free(e->name);
  free(e->link);
  free(e->pieces);
  free(e->pax.at);
  memset(e, 0, sizeof *e);
  long_name.size = long_link.size = 0;
}

void tar_restart(struct tar_entry *last) {
  clear(last);
  have = used = 0;
  left = padding = 0;
}

ssize_t tar_drain(void) {
  ssize_t more;
  do
    used = have;
  while ((more = fill()) > 0);
  return more;
}

int tar_next(struct tar_entry *out, const char **why) {
  struct tar_header h;
  if (skip(left + padding, why) < 0)
    return -1;
  left = padding = 0;
  clear(out);
  for (;;) {
    ssize_t more = fill();
    *why = NULL;
    if (more <= 0)
      return (int)more; /* no end blocks: some programs write none */
    if (exactly(&h, sizeof h, why) < 0)
      return -1;
    *why = BAD;
    if (is_zero(&h))
      return 0;
    if (!checked(&h))
      return -1;
    struct text nothing = {0};
    struct text *meta = h.kind == 'x' || h.kind == 'X' ? &out->pax : h.kind == 'L' ? &long_name : h.kind == 'K' ? &long_link
                        : h.kind == 'g' || h.kind == 'V'                           ? &nothing
                                                                                   : NULL;
    if (!meta)
      return make_entry(out, &h, why) < 0 ? -1 : 1;
    int result = out->pax.size + long_name.size + long_link.size > 3 * TAR_META ? -1 : read_meta(&h, meta, why);
    free(nothing.at);
    if (result < 0)
      return -1;
    *why = BAD;
    if (meta == &out->pax && !good_pax(meta))
      return -1;
  }
}

ssize_t tar_data(const char **at, const char **why) {
  if (!left)
    return 0;
  ssize_t more = fill();
  if (more <= 0) {
    *why = more < 0 ? NULL : CUT;
    return -1;
  }
  size_t part = left < have - used ? (size_t)left : have - used;
  *at = buffer + used;
  used += part;
  left -= part;
  return (ssize_t)part;
}
