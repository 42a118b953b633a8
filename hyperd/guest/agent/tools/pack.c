#define _GNU_SOURCE
/* A directory as a tar archive on stdout: sorted, complete, the same for the same directory. */
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "plan/paths.h"
#include "tools/tar.h"
#include "tools/tools.h"
#include "tools/tree.h"

enum { MAX_XATTRS = 65536, SPARSE_MIN = 1 << 20, MAX_MAP = 8192 };

/* A file that has more than one name, under the first of them. */
struct linked {
  dev_t device;
  ino_t inode;
  char *name;
};

/* A directory on the way down; its header is written when the first thing in it is. */
struct level {
  struct level *up;
  int fd;
  size_t name_size; /* of its path, slash included; 0 = the root */
  struct stat stat;
  bool written, skipped, opaque;
};

static struct {
  bool difference; /* an overlay's upper directory: whiteouts and opaque directories */
  bool one_device; /* of what is mounted and of another file system than the root only the name */
  uint64_t mount;  /* that of the root, its device and its file system */
  dev_t device;
  struct statfs fs;
  int lower_fd;
  char **skip;
  int skip_count;
  struct linked *links;
  size_t link_count, link_room;
  char path[MAX_PATH_TEXT];
} p = {.lower_fd = -1};

static int packing_failed(const char *path) { return tool_failed("pack %s: %s", path, strerror(errno)); }

/* Hard links. */

static size_t slot_of(const struct linked *table, size_t room, dev_t device, ino_t inode) {
  size_t at = (size_t)((uint64_t)inode * 0x9E3779B97F4A7C15u ^ device) % room;
  while (table[at].name && (table[at].device != device || table[at].inode != inode))
    at = (at + 1) % room;
  return at;
}

static int grow_links(void) {
  size_t room = p.link_room ? p.link_room * 2 : 1024;
  struct linked *table = calloc(room, sizeof *table);
  if (!table)
    return -1;
  for (size_t i = 0; i < p.link_room; i++)
    if (p.links[i].name)
      table[slot_of(table, room, p.links[i].device, p.links[i].inode)] = p.links[i];
  free(p.links);
  p.links = table;
  p.link_room = room;
  return 0;
}

/* The name under which this file was packed before; NULL for the first time, *failed without memory. */
static const char *packed_before(const struct stat *s, const char *name, bool *failed) {
  if (s->st_nlink < 2)
    return NULL;
  if (p.link_count * 2 >= p.link_room && grow_links() < 0) {
    *failed = true;
    return NULL;
  }
  struct linked *entry = &p.links[slot_of(p.links, p.link_room, s->st_dev, s->st_ino)];
  if (entry->name)
    return entry->name;
  *entry = (struct linked){s->st_dev, s->st_ino, strdup(name)};
  *failed = !entry->name;
  p.link_count++;
  return NULL;
}

/* Extended attributes. */

static bool kept(const char *name) { return strcmp(name, "security.capability") == 0 || strncmp(name, "user.", 5) == 0; }

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int add_xattrs(int fd, struct text *pax) {
  static char names[MAX_XATTRS], value[MAX_XATTRS], key[300];
  static char *list[MAX_XATTRS / 2];
  size_t count = 0;
  ssize_t size = flistxattr(fd, names, sizeof names);
  if (size < 0)
    return errno == EOPNOTSUPP ? 0 : -1;
  for (char *name = names; name < names + size; name += strlen(name) + 1)
    if (kept(name))
      list[count++] = name;
  qsort(list, count, sizeof *list, by_name);
  for (size_t i = 0; i < count; i++) {
    ssize_t length = fgetxattr(fd, list[i], value, sizeof value);
    snprintf(key, sizeof key, "SCHILY.xattr.%s", list[i]);
    if (length < 0 && errno == ENODATA)
      continue;
    if (length < 0 || tar_record(pax, key, value, (size_t)length) < 0)
      return -1;
  }
  return 0;
}

/* Members. */

static int write_marker(const char *name, const struct stat *like) {
  struct stat s = {.st_mode = 0600, .st_mtim = like->st_mtim};
  s.st_mtim.tv_nsec = 0;
  struct tar_member m = {.name = name, .link = "", .kind = '0', .stat = &s};
  return tar_member(&m);
}

/* Is this directory as the one below? */
static bool same_below(const struct level *level) {
  char name[MAX_PATH_TEXT];
  struct stat s;
  struct text ours = {0}, theirs = {0};
  if (p.lower_fd < 0)
    return false;
  memcpy(name, p.path, level->name_size);
  name[level->name_size ? level->name_size - 1 : 0] = 0;
  cleanup_fd int fd = path_open(p.lower_fd, *name ? name : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
  bool same = fd >= 0 && fstat(fd, &s) == 0 && s.st_mode == level->stat.st_mode && s.st_uid == level->stat.st_uid &&
              s.st_gid == level->stat.st_gid && add_xattrs(level->fd, &ours) == 0 && add_xattrs(fd, &theirs) == 0 &&
              ours.size == theirs.size && (!ours.size || memcmp(ours.at, theirs.at, ours.size) == 0);
  free(ours.at);
  free(theirs.at);
  return same;
}

/* Is a root as one that no layer says anything of? */
static bool is_plain(const struct level *level) {
  return (level->stat.st_mode & 07777) == 0755 && level->stat.st_uid == 0 && level->stat.st_gid == 0;
}

/* Write the headers of this directory and of those above that have none yet; of a plain root that was so before, none. */
static int write_levels(struct level *level) {
  if (!level || level->written)
    return 0;
  if (write_levels(level->up) < 0)
    return -1;
  level->written = true;
  char name[MAX_PATH_TEXT + 16] = "./";
  struct tar_member m = {.name = name, .link = "", .kind = '5', .stat = &level->stat};
  int result = add_xattrs(level->fd, &m.pax);
  if (level->name_size) {
    memcpy(name, p.path, level->name_size);
    name[level->name_size] = 0;
  } else if (result == 0 && !m.pax.size && is_plain(level) && (p.lower_fd < 0 || same_below(level))) {
    return 0;
  }
  if (result == 0)
    result = tar_member(&m);
  free(m.pax.at);
  if (result == 0 && level->opaque) {
    strcpy(name + level->name_size, ".wh..wh..opq");
    result = write_marker(name, &level->stat);
  }
  return result;
}

/* `size` bytes from `offset` on; what a file lost meanwhile is zeros. */
static int write_content(int fd, uint64_t offset, uint64_t size) {
  while (size) {
    size_t want;
    char *data = tar_room(&want);
    if (!data)
      return -1;
    want = size < want ? (size_t)size : want;
    ssize_t count = RETRY(pread(fd, data, want, (off_t)offset));
    if (count < 0)
      return -1;
    if (count == 0)
      memset(data, 0, (size_t)(count = (ssize_t)want));
    tar_added((size_t)count);
    offset += (uint64_t)count;
    size -= (uint64_t)count;
  }
  return 0;
}

/* Where a file has data; 0 pieces when it is not worth the trouble. */
static size_t data_map(int fd, const struct stat *s, uint64_t map[MAX_MAP][2]) {
  uint64_t total = 0;
  size_t count = 0;
  if (s->st_size < SPARSE_MIN || (uint64_t)s->st_blocks * 512 + SPARSE_MIN / 2 > (uint64_t)s->st_size)
    return 0;
  for (off_t at = 0; at < s->st_size;) {
    off_t start = lseek(fd, at, SEEK_DATA);
    if (start < 0 || start >= s->st_size)
      break;
    off_t end = lseek(fd, start, SEEK_HOLE);
    if (end < 0 || count >= MAX_MAP - 1)
      return 0;
    end = end > s->st_size ? s->st_size : end;
    map[count][0] = (uint64_t)start;
    map[count++][1] = (uint64_t)(end - start);
    total += (uint64_t)(end - start);
    at = end;
  }
  if (total + SPARSE_MIN / 2 > (uint64_t)s->st_size)
    return 0;
  map[count][0] = (uint64_t)s->st_size; /* GNU tar ends the map so */
  map[count++][1] = 0;
  return count;
}

/* GNU tar manual, "PAX Format, Version 1.0": the map stands before the data. */
static int write_sparse(int fd, struct tar_member *m, uint64_t map[MAX_MAP][2], size_t count) {
  char line[64], name[] = "GNUSparseFile.0/file";
  struct text text = {0};
  uint64_t size = 0, real_size = (uint64_t)m->stat->st_size;
  int result = text_add(&text, line, (size_t)snprintf(line, sizeof line, "%zu\n", count));
  for (size_t i = 0; i < count && result == 0; i++) {
    int length = snprintf(line, sizeof line, "%llu\n%llu\n", (unsigned long long)map[i][0], (unsigned long long)map[i][1]);
    result = text_add(&text, line, (size_t)length);
    size += map[i][1];
  }
  int digits = snprintf(line, sizeof line, "%llu", (unsigned long long)real_size);
  if (result == 0)
    result = tar_record(&m->pax, "GNU.sparse.major", "1", 1) < 0 || tar_record(&m->pax, "GNU.sparse.minor", "0", 1) < 0 ||
                     tar_record(&m->pax, "GNU.sparse.name", m->name, strlen(m->name)) < 0 ||
                     tar_record(&m->pax, "GNU.sparse.realsize", line, (size_t)digits) < 0
                 ? -1
                 : 0;
  m->name = name;
  m->size = text.size + -text.size % TAR_BLOCK + size;
  if (result == 0)
    result = tar_member(m) < 0 || tar_write(text.at, text.size) < 0 || tar_pad(text.size) < 0 ? -1 : 0;
  for (size_t i = 0; i < count && result == 0; i++)
    result = write_content(fd, map[i][0], map[i][1]);
  free(text.at);
  return result < 0 ? -1 : tar_pad(m->size);
}

static int write_file(int dir, const char *entry, const char *name) {
  static uint64_t map[MAX_MAP][2];
  struct stat s;
  cleanup_fd int fd = openat(dir, entry, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0 || fstat(fd, &s) < 0)
    return -1;
  struct tar_member m = {.name = name, .link = "", .kind = '0', .stat = &s, .size = (uint64_t)s.st_size};
  int result = add_xattrs(fd, &m.pax);
  size_t pieces = result < 0 ? 0 : data_map(fd, &s, map);
  if (result == 0)
    result = pieces ? write_sparse(fd, &m, map, pieces)
                    : tar_member(&m) < 0 || write_content(fd, 0, m.size) < 0 ? -1 : tar_pad(m.size);
  free(m.pax.at);
  return result;
}

static int write_other(int dir, const char *entry, const char *name, const struct stat *s) {
  char link[MAX_PATH_TEXT] = "";
  struct tar_member m = {.name = name, .link = link, .stat = s};
  if (S_ISLNK(s->st_mode)) {
    ssize_t size = readlinkat(dir, entry, link, sizeof link - 1);
    if (size < 0)
      return -1;
    link[size] = 0;
  }
  m.kind = S_ISLNK(s->st_mode) ? '2' : S_ISCHR(s->st_mode) ? '3' : S_ISBLK(s->st_mode) ? '4' : '6';
  return tar_member(&m);
}

static int write_plain(int dir, const char *entry, const char *name, const struct stat *s) {
  bool failed = false;
  const char *first = packed_before(s, name, &failed);
  if (failed)
    return -1;
  if (first) {
    struct tar_member m = {.name = name, .link = first, .kind = '1', .stat = s};
    return tar_member(&m);
  }
  return S_ISREG(s->st_mode) ? write_file(dir, entry, name) : write_other(dir, entry, name, s);
}

/* What is mounted somewhere is not to be seen, only that there is something to mount on: a directory or an empty file. */
static int write_mount_point(const char *name, const struct stat *s) {
  struct stat shown = *s;
  struct tar_member m = {.name = name, .link = "", .kind = S_ISDIR(s->st_mode) ? '5' : '0', .stat = &shown};
  shown.st_mode &= 01777; /* an empty file needs no rights of its own */
  return tar_member(&m);
}

/*
 * Is something of another file system mounted here? 1 = yes, -1 with errno. A path that is protected is a mount of the
 * root itself. Of an overlay's files only directories have its device number: others are compared by file system.
 */
static int is_foreign(int dir, const char *entry, const struct stat *s) {
  uint64_t mount;
  struct statfs fs;
  if (!p.one_device)
    return 0;
  if (path_mount_id(dir, entry, 0, &mount) < 0)
    return -1;
  if (mount == p.mount || S_ISDIR(s->st_mode))
    return mount != p.mount && s->st_dev != p.device;
  cleanup_fd int fd = openat(dir, entry, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0 || fstatfs(fd, &fs) < 0)
    return -1;
  return fs.f_type != p.fs.f_type || memcmp(&fs.f_fsid, &p.fs.f_fsid, sizeof fs.f_fsid) != 0;
}

/* Walking. */

static void free_names(char **names, size_t count) {
  for (size_t i = 0; i < count; i++)
    free(names[i]);
  free(names);
}

static char **list_names(int fd, size_t *count) {
  DIR *dir = tree_list(fd);
  size_t room = 64;
  char **names = dir ? malloc(room * sizeof *names) : NULL;
  *count = 0;
  errno = names ? 0 : errno;
  for (struct dirent *e; names && (e = tree_next(dir));) {
    char **grown = *count < room ? names : realloc(names, (room *= 2) * sizeof *names);
    if (grown)
      names = grown;
    if (!grown || !(names[*count] = strdup(e->d_name)))
      break;
    ++*count;
  }
  tree_end(dir);
  if (errno) {
    int saved = errno;
    free_names(names, *count);
    errno = saved;
    return NULL;
  }
  qsort(names, *count, sizeof *names, by_name);
  return names;
}

static bool skipped(const char *name, const struct stat *s) {
  for (int i = 0; i < p.skip_count; i++)
    if (strcmp(p.skip[i], name) == 0)
      return S_ISDIR(s->st_mode) || (S_ISREG(s->st_mode) && s->st_size == 0);
  return false;
}

/* Is there nothing to say of this directory: is it the root, or was only a mount point made in it, as it was? */
static bool unchanged(const struct level *level) {
  return (level->skipped || !level->name_size) && !level->opaque && same_below(level);
}

static int pack_directory(struct level *level, unsigned depth);

static int pack_entry(struct level *level, const char *entry, unsigned depth) {
  struct stat s;
  size_t size = strlen(entry);
  if (level->name_size + size + 16 >= sizeof p.path || depth > TREE_DEPTH) {
    errno = ENAMETOOLONG;
    return -1;
  }
  if (fstatat(level->fd, entry, &s, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? 0 : -1; /* removed meanwhile */
  char *at = p.path + level->name_size;
  strcpy(at, entry);
  if (skipped(p.path, &s)) {
    level->skipped = true;
    return 0;
  }
  int foreign = is_foreign(level->fd, entry, &s);
  if (foreign < 0)
    return errno == ENOENT ? 0 : -1;
  if (foreign) {
    strcpy(at + size, S_ISDIR(s.st_mode) ? "/" : "");
    return write_levels(level) < 0 ? -1 : write_mount_point(p.path, &s);
  }
  if (S_ISSOCK(s.st_mode) || (p.difference && strncmp(entry, ".wh.", 4) == 0)) {
    if (!S_ISSOCK(s.st_mode))
      fprintf(stderr, "left out: %s (the name means a removed file in a layer)\n", p.path);
    return 0;
  }
  if (S_ISDIR(s.st_mode)) {
    strcpy(at + size, "/");
    struct level down = {.up = level, .name_size = level->name_size + size + 1, .stat = s};
    down.fd = openat(level->fd, entry, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int result = down.fd < 0 ? (errno == ENOENT ? 0 : -1) : pack_directory(&down, depth + 1);
    close_fd(&down.fd);
    return result;
  }
  if (write_levels(level) < 0)
    return -1;
  if (p.difference && S_ISCHR(s.st_mode) && s.st_rdev == makedev(0, 0)) {
    snprintf(at, sizeof p.path - level->name_size, ".wh.%s", entry);
    return write_marker(p.path, &s);
  }
  return write_plain(level->fd, entry, p.path, &s);
}

static int pack_directory(struct level *level, unsigned depth) {
  size_t count;
  level->opaque = p.difference && tree_is_opaque(level->fd);
  char **names = list_names(level->fd, &count);
  if (!names)
    return -1;
  int result = 0;
  for (size_t i = 0; i < count && result == 0; i++)
    result = pack_entry(level, names[i], depth);
  free_names(names, count);
  if (result == 0 && !level->written && !unchanged(level)) {
    p.path[level->name_size] = 0;
    result = write_levels(level);
  }
  return result;
}

static int finish(void) {
  static const char zeros[2 * TAR_BLOCK];
  return tar_write(zeros, sizeof zeros) < 0 || tar_flush() < 0 ? packing_failed("to the end") : 0;
}

static void prepare(void) {
  tree_prepare();
  fcntl(1, F_SETPIPE_SZ, 1 << 20);
}

int pack_difference(const char *upper, const char *lower, char **skip, int skip_count) {
  struct level root = {.fd = open(upper, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  prepare();
  p.difference = true;
  p.skip = skip;
  p.skip_count = skip_count;
  if (root.fd < 0 || fstat(root.fd, &root.stat) < 0)
    return packing_failed(upper);
  if (lower && (p.lower_fd = open(lower, O_PATH | O_DIRECTORY | O_CLOEXEC)) < 0)
    return packing_failed(lower);
  return pack_directory(&root, 0) < 0 ? packing_failed(p.path) : finish();
}

/* One match of a pattern: a directory's content, or a file under its last name. Links are followed, as by COPY. */
static int pack_match(const char *path) {
  struct stat s;
  if (stat(path, &s) < 0)
    return -1;
  if (S_ISDIR(s.st_mode)) {
    struct level root = {.fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), .written = true};
    int result = root.fd < 0 ? -1 : pack_directory(&root, 0);
    close_fd(&root.fd);
    return result;
  }
  char real[MAX_PATH_TEXT], name[256];
  const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
  if (!realpath(path, real) || strlen(last) >= sizeof name) {
    errno = errno ? errno : ENAMETOOLONG;
    return -1;
  }
  strcpy(name, last);
  if (S_ISSOCK(s.st_mode))
    return 0;
  return S_ISREG(s.st_mode) ? write_file(AT_FDCWD, real, name) : write_other(AT_FDCWD, real, name, &s);
}

int pack_path(const char *root, const char *directory, const char *name, const char *as) {
  struct stat s;
  prepare();
  if (!as)
    as = strcmp(name, ".") == 0 ? "" : name;
  if (chroot(root) < 0 || chdir("/") < 0)
    return packing_failed(root);
  if (chdir(directory) < 0 || lstat(name, &s) < 0)
    return packing_failed(name);
  if (strlen(as) + 16 >= sizeof p.path)
    return tool_failed("pack: the name is too long");
  strcpy(p.path, as);
  if (!S_ISDIR(s.st_mode))
    return S_ISSOCK(s.st_mode) || write_plain(AT_FDCWD, name, as, &s) == 0 ? finish() : packing_failed(name);
  struct level top = {.stat = s, .fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)};
  if (*as) {
    strcat(p.path, "/");
    top.name_size = strlen(p.path);
  }
  return top.fd < 0 || pack_directory(&top, 0) < 0 ? packing_failed(p.path) : finish();
}

int pack_device(const char *root) {
  struct level top = {.fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  prepare();
  if (top.fd < 0 || fstat(top.fd, &top.stat) < 0 || fstatfs(top.fd, &p.fs) < 0 ||
      path_mount_id(top.fd, "", AT_EMPTY_PATH, &p.mount) < 0)
    return packing_failed(root);
  p.one_device = true;
  p.device = top.stat.st_dev;
  return pack_directory(&top, 0) < 0 ? packing_failed(p.path) : finish();
}

int pack_tree(const char *root, char **patterns, int count, bool announce) {
  static char *everything[] = {"/"};
  glob_t found = {0};
  prepare();
  if (chroot(root) < 0 || chdir("/") < 0)
    return packing_failed(root);
  if (!count) {
    patterns = everything;
    count = 1;
  }
  for (int i = 0; i < count; i++) {
    if (glob(patterns[i], i ? GLOB_APPEND : 0, NULL, &found) != 0)
      return tool_failed("%s: no such file or directory", patterns[i]);
  }
  if (announce) {
    struct stat s;
    bool single = found.gl_pathc == 1 && stat(found.gl_pathv[0], &s) == 0 && !S_ISDIR(s.st_mode);
    if (tar_write(single ? "F" : "D", 1) < 0)
      return packing_failed("the answer");
  }
  for (size_t i = 0; i < found.gl_pathc; i++)
    if (pack_match(found.gl_pathv[i]) < 0)
      return packing_failed(found.gl_pathv[i]);
  globfree(&found);
  return finish();
}
