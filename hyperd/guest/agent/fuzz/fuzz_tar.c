/* Fuzz target: archives as --unpack reads them from stdin. `make fuzz`. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/tar_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition) {
  if (!condition)
    abort();
}

enum { SPEC = 24, MAX_ARCHIVE = 1 << 18 };

static uint8_t archive[MAX_ARCHIVE];

static void seal(struct tar_header *h) {
  unsigned sum = 0;
  memset(h->checksum, ' ', sizeof h->checksum);
  for (size_t i = 0; i < TAR_BLOCK; i++)
    sum += ((uint8_t *)h)[i];
  snprintf(h->checksum, sizeof h->checksum, "%06o", sum);
}

/* A member from 24 bytes: kind, length of the data, number format, the rest goes over names and GNU's sparse map. The data follows. */
static size_t put_member(uint8_t *out, const uint8_t *spec, const uint8_t *rest, size_t rest_size) {
  static const char KINDS[] = "0012345678SxXgLKV";
  struct tar_header *h = (struct tar_header *)out;
  size_t size = spec[1] * (spec[2] & 3u) < rest_size ? spec[1] * (spec[2] & 3u) : rest_size;
  memset(out, 0, TAR_BLOCK);
  h->kind = KINDS[spec[0] % (sizeof KINDS - 1)];
  snprintf(h->mode, sizeof h->mode, "%o", spec[3]);
  snprintf(h->size, sizeof h->size, "%zo", spec[2] & 4 ? size * spec[4] : size);
  snprintf(h->uid, sizeof h->uid, "%o", spec[5]);
  if (spec[2] & 8)
    memcpy(h->magic, "ustar", 6);
  memcpy(h->name, spec + 6, 8);
  memcpy(h->link, spec + 14, 4);
  memcpy(spec[2] & 16 ? (uint8_t *)h->prefix : out + 386, spec + 8, 16); /* 386: sparse entries of the old GNU format */
  if (spec[2] & 32)
    memcpy(h->size, spec + 12, 12);
  seal(h);
  memset(out + TAR_BLOCK, 0, (size + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK);
  memcpy(out + TAR_BLOCK, rest, size);
  return size;
}

/* An archive whose checksums are good; others are refused at once. */
static size_t make_archive(const uint8_t *data, size_t size) {
  size_t end = 0;
  while (size >= SPEC && end + 3 * TAR_BLOCK < MAX_ARCHIVE) {
    size_t taken = put_member(archive + end, data, data + SPEC, size - SPEC);
    end += TAR_BLOCK + (taken + TAR_BLOCK - 1) / TAR_BLOCK * TAR_BLOCK;
    data += SPEC + taken;
    size -= SPEC + taken;
  }
  return end;
}

static void check_entry(const struct tar_entry *e) {
  const char *at = NULL, *key, *value;
  size_t length;
  require(e->name && e->link && e->kind >= '0' && e->kind <= '6');
  require(!(e->mode & ~07777u) && e->size <= INT64_MAX);
  uint64_t end = 0;
  for (size_t i = 0; i < e->piece_count; i++) {
    require(e->pieces[i].offset >= end && e->pieces[i].size <= e->size);
    end = e->pieces[i].offset + e->pieces[i].size;
    require(end <= e->size);
  }
  for (unsigned count = 0; tar_pax_next(&e->pax, &at, &key, &value, &length); count++)
    require(count < TAR_META && key >= e->pax.at && value + length <= e->pax.at + e->pax.size);
}

static void read_all(void) {
  static struct tar_entry entry;
  const char *why, *at;
  ssize_t part;
  while (tar_next(&entry, &why) > 0) {
    uint64_t got = 0;
    check_entry(&entry);
    while ((part = tar_data(&at, &why)) > 0)
      got += (uint64_t)part;
    require(got <= INT64_MAX);
  }
  tar_restart(&entry);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static int fd = -1;
  if (size == 0)
    return 0;
  if (fd < 0)
    require((fd = memfd_create("archive", 0)) >= 0 && dup2(fd, 0) == 0);
  const uint8_t *whole = data + 1;
  size_t length = size - 1;
  if (data[0] & 3) {
    length = make_archive(data + 1, size - 1);
    whole = archive;
  }
  require(ftruncate(fd, 0) == 0 && pwrite(fd, whole, length, 0) == (ssize_t)length && lseek(fd, 0, SEEK_SET) == 0);
  read_all();
  return 0;
}
