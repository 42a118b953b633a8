/* describe ROOT: everything about every file below ROOT, one line each; names and values in hexadecimal, mounts left out. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { ROOM = 1 << 16, SAMPLE = 1 << 20, WHOLE = 64 << 20 };

static char path[8192];
static dev_t top_device;

static void hex(const char *data, size_t size) {
  for (size_t i = 0; i < size; i++)
    printf("%02x", (unsigned char)data[i]);
}

static void fail(const char *what) {
  printf("error %s %s: %s\n", what, path, strerror(errno));
  exit(1);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void attributes(const char *place) {
  static char names[ROOM], value[ROOM], *list[ROOM / 2];
  ssize_t size = llistxattr(place, names, sizeof names);
  size_t count = 0;
  for (char *name = names; size > 0 && name < names + size; name += strlen(name) + 1)
    if (strncmp(name, "trusted.overlay.", 16) != 0)
      list[count++] = name;
  qsort(list, count, sizeof *list, by_name);
  for (size_t i = 0; i < count; i++) {
    ssize_t length = lgetxattr(place, list[i], value, sizeof value);
    if (length < 0)
      fail("attribute");
    printf(" %s=", list[i]);
    hex(value, (size_t)length);
  }
}

static uint64_t sum(int fd, uint64_t start, uint64_t end, uint64_t hash) {
  static uint64_t data[ROOM / 8];
  for (ssize_t count; start < end; start += (uint64_t)count) {
    uint64_t want = end - start < sizeof data ? end - start : sizeof data;
    data[want / 8 < ROOM / 8 ? want / 8 : 0] = 0;
    if ((count = pread(fd, data, want, (off_t)start)) <= 0)
      fail("read");
    if ((uint64_t)count < want && count % 8)
      memset((char *)data + count, 0, 8 - (size_t)count % 8);
    for (ssize_t i = 0; i < (count + 7) / 8; i++)
      hash = (hash ^ data[i]) * 0x9E3779B97F4A7C15u + (hash >> 29);
  }
  return hash;
}

/* The whole content; of a very large file its ends and what lies around 4 GiB. */
static uint64_t content(const char *place, uint64_t size) {
  uint64_t hash = size, edge = 1ull << 32;
  int fd = open(place, O_RDONLY);
  if (fd < 0)
    fail("open");
  if (size <= WHOLE) {
    hash = sum(fd, 0, size, hash);
  } else {
    hash = sum(fd, 0, SAMPLE, hash);
    if (size > edge + SAMPLE)
      hash = sum(fd, edge - SAMPLE, edge + SAMPLE, hash);
    hash = sum(fd, size - SAMPLE, size, hash);
  }
  close(fd);
  return hash;
}

static void describe(const struct stat *s) {
  char target[8192];
  const char *place = *path ? path : ".";
  hex(path, strlen(path));
  printf(" %o %u %u", s->st_mode, s->st_uid, s->st_gid);
  if (!S_ISDIR(s->st_mode))
    printf(" links=%lu file=%lu:%lu time=%ld", (unsigned long)s->st_nlink, (unsigned long)s->st_dev, (unsigned long)s->st_ino, s->st_mtim.tv_sec);
  if (S_ISREG(s->st_mode))
    printf(" size=%lu content=%016lx", (unsigned long)s->st_size, (unsigned long)content(place, (uint64_t)s->st_size));
  if (S_ISCHR(s->st_mode) || S_ISBLK(s->st_mode))
    printf(" device=%u:%u", major(s->st_rdev), minor(s->st_rdev));
  if (S_ISLNK(s->st_mode)) {
    ssize_t size = readlink(place, target, sizeof target);
    if (size < 0)
      fail("readlink");
    printf(" target=");
    hex(target, (size_t)size);
  }
  attributes(place);
  printf("\n");
}

static void walk(void) {
  struct stat s;
  size_t length = strlen(path);
  if (lstat(*path ? path : ".", &s) < 0)
    fail("stat");
  if (S_ISDIR(s.st_mode) && s.st_dev != top_device)
    return;
  describe(&s);
  DIR *dir = S_ISDIR(s.st_mode) ? opendir(*path ? path : ".") : NULL;
  if (S_ISDIR(s.st_mode) && !dir)
    fail("opendir");
  for (struct dirent *e; dir && (e = readdir(dir));) {
    if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
      continue;
    snprintf(path + length, sizeof path - length, "%s%s", length ? "/" : "", e->d_name);
    walk();
    path[length] = 0;
  }
  if (dir)
    closedir(dir);
}

int main(int argc, char **argv) {
  struct stat s;
  if (argc != 2 || chdir(argv[1]) < 0 || stat(".", &s) < 0)
    return 2;
  top_device = s.st_dev;
  walk();
  printf("end\n");
  return 0;
}
