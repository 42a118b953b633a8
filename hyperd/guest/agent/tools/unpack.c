#define _GNU_SOURCE
/* A tar archive from stdin into a directory, as its root: no name and no link leads out of it. */
#include "plan/paths.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tools/mode.h"
#include "tools/tar_read.h"
#include "tools/tools.h"
#include "plan/users.h"

enum { PAGE = 4096, DIRECT_MIN = 1 << 16 };

/* Times of directories are set at the end: what is put into them changes them. */
struct dated {
  struct dated *next;
  struct timespec mtime;
  char path[];
};

static struct {
  int root;
  char base[MAX_PATH_TEXT];        /* where the archive's names begin, relative to the root */
  char rename[256];                /* the new name of the only member */
  bool own, copy;                  /* an owner is given; COPY's rules for what stands in the way, else those of tar */
  uint32_t uid, gid;
  const char *mode;                /* checked; NULL = as the archive says */
  bool direct;                     /* files can be written past the page cache, as far as is known */
  struct dated *dated;
  char parent_path[MAX_PATH_TEXT]; /* the directory opened last */
  int parent;
} u = {.root = -1, .parent = -1, .direct = true};

static void forget_parent(void) {
  close_fd(&u.parent);
  u.parent_path[0] = 0;
}

/* Open a directory. It and those above it are made when they are missing, for the given owner; of a link that leads
   nowhere its target. */
static int open_made(const char *path) {
  char real[MAX_PATH_TEXT], name[256];
  int fd = path_open(u.root, *path ? path : ".", O_RDONLY | O_DIRECTORY, 0);
  if (fd >= 0 || errno != ENOENT || path_real(u.root, path, real) < 0)
    return fd;
  for (char *end = real; end;) {
    end = strchr(end + 1, '/');
    if (end)
      *end = 0;
    close_fd(&fd);
    fd = path_open(u.root, real, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0 && errno == ENOENT) {
      cleanup_fd int up = path_parent(u.root, real, false, name);
      if (up < 0 || mkdirat(up, name, 0755) < 0 || (u.own && fchownat(up, name, u.uid, u.gid, AT_SYMLINK_NOFOLLOW) < 0))
        return -1;
      fd = openat(up, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    }
    if (fd < 0)
      return -1;
    if (end)
      *end = '/';
  }
  return fd;
}

/* "a//b/./c/" becomes "a/b/c"; -1 for a name that climbs or is too long. */
static int clean(const char *name, char *out, size_t room) {
  size_t size = 0;
  for (const char *at = name; *at;) {
    const char *end = strchrnul(at, '/');
    size_t part = (size_t)(end - at);
    if (part == 2 && at[0] == '.' && at[1] == '.')
      return -1;
    if (part && !(part == 1 && *at == '.')) {
      if (part > 255 || size + part + 2 > room)
        return -1;
      if (size)
        out[size++] = '/';
      memcpy(out + size, at, part);
      size += part;
    }
    at = *end ? end + 1 : end;
  }
  out[size] = 0;
  return 0;
}

static int joined(const char *name, char *out, size_t room) {
  int size = snprintf(out, room, "%s%s%s", u.base, *u.base && *name ? "/" : "", name);
  if (size < 0 || (size_t)size >= room) {
    errno = ENAMETOOLONG;
    return -1;
  }
  return 0;
}

/* The directory that holds the last part of a cleaned path; it stays open for the next one. */
static int open_parent(const char *path, const char **name) {
  const char *slash = strrchr(path, '/');
  size_t size = slash ? (size_t)(slash - path) : 0;
  *name = slash ? slash + 1 : path;
  if (u.parent >= 0 && strlen(u.parent_path) == size && memcmp(u.parent_path, path, size) == 0)
    return u.parent;
  forget_parent();
  char up[MAX_PATH_TEXT];
  memcpy(up, path, size);
  up[size] = 0;
  int fd = open_made(up);
  if (fd >= 0)
    memcpy(u.parent_path, up, size + 1);
  return u.parent = fd;
}

enum room { FREE, DIRECTORY, LINKED }; /* LINKED: a link to a directory, which stays */

/*
 * What stands in the way goes, but a directory for a directory. COPY's rules refuse a directory for what is none (a link
 * to a directory, too) and anything else for a directory. By the rules of tar these go as well, but a link to a
 * directory stays: what is behind it must not get out of reach.
 */
static int make_room(int parent, const char *name, const char *path, char kind, const char **why) {
  struct stat s;
  if (fstatat(parent, name, &s, AT_SYMLINK_NOFOLLOW) < 0)
    return errno == ENOENT ? FREE : -1;
  if (S_ISDIR(s.st_mode) && kind == '5')
    return DIRECTORY;
  if (u.copy && (kind == '5' || S_ISDIR(s.st_mode))) {
    *why = kind == '5' ? "cannot copy to non-directory" : "cannot replace a directory with a file";
    return -1;
  }
  if (S_ISLNK(s.st_mode) && kind == '5') {
    cleanup_fd int behind = path_open(u.root, path, O_PATH | O_DIRECTORY, 0);
    if (behind >= 0)
      return LINKED;
  }
  return path_remove(parent, name);
}

static int set_xattrs(int fd, const struct tar_entry *e) {
  static const char PREFIX[] = "SCHILY.xattr.";
  const char *at = NULL, *key, *value;
  size_t size;
  while (tar_pax_next(&e->pax, &at, &key, &value, &size)) {
    if (strncmp(key, PREFIX, sizeof PREFIX - 1) != 0)
      continue;
    key += sizeof PREFIX - 1;
    if (strcmp(key, "security.capability") != 0 && strncmp(key, "user.", 5) != 0)
      continue;
    if (fsetxattr(fd, key, value, size, 0) < 0 && errno != EOPNOTSUPP)
      return -1;
  }
  return 0;
}

static mode_t mode_of(const struct tar_entry *e) {
  mode_t mode = e->mode & 07777;
  if (u.mode)
    mode_apply(u.mode, e->kind == '5', &mode);
  return mode;
}

/* Owner first: a change of it clears the set-id bits and the capabilities. */
static int dress(int fd, const struct tar_entry *e) {
  struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, e->mtime};
  uid_t uid = u.own ? u.uid : (uid_t)e->uid;
  gid_t gid = u.own ? u.gid : (gid_t)e->gid;
  if (fchown(fd, uid, gid) < 0 || fchmod(fd, mode_of(e)) < 0 || set_xattrs(fd, e) < 0)
    return -1;
  return futimens(fd, times);
}

/*
 * Write whole pages past the page cache: an emulated CPU has no copy to make, and large files do not throw everything
 * else out of a small guest's memory. How much was written so; 0 where it cannot be.
 */
static size_t write_pages(int fd, const char *data, size_t size, uint64_t offset) {
  size_t part = size / PAGE * PAGE;
  int flags = fcntl(fd, F_GETFL);
  if (!u.direct || part < DIRECT_MIN || offset % PAGE || (uintptr_t)data % TAR_BLOCK || fcntl(fd, F_SETFL, flags | O_DIRECT) < 0)
    return 0;
  ssize_t count = RETRY(pwrite(fd, data, part, (off_t)offset));
  fcntl(fd, F_SETFL, flags);
  u.direct = count >= 0; /* tmpfs, shared directories: not again; what is wrong will be so without it, too */
  return count > 0 ? (size_t)count : 0;
}

static int write_at(int fd, const char *data, size_t size, uint64_t offset) {
  size_t direct = write_pages(fd, data, size, offset);
  data += direct;
  size -= direct;
  offset += direct;
  while (size) {
    ssize_t count = RETRY(pwrite(fd, data, size, (off_t)offset));
    if (count < 0)
      return -1;
    data += count;
    size -= (size_t)count;
    offset += (uint64_t)count;
  }
  return 0;
}

static int write_data(int fd, const struct tar_entry *e, const char **why) {
  struct tar_piece whole = {0, e->size};
  const struct tar_piece *pieces = e->pieces ? e->pieces : &whole;
  size_t count = e->pieces ? e->piece_count : 1, piece = 0;
  uint64_t done = 0; /* of the present piece */
  const char *data;
  for (ssize_t size; (size = tar_data(&data, why)) != 0;) {
    while (size > 0) {
      while (piece < count && done == pieces[piece].size) {
        piece++;
        done = 0;
      }
      if (piece == count)
        return -1;
      uint64_t part = pieces[piece].size - done < (uint64_t)size ? pieces[piece].size - done : (uint64_t)size;
      *why = NULL;
      if (write_at(fd, data, (size_t)part, pieces[piece].offset + done) < 0)
        return -1;
      data += part;
      size -= (ssize_t)part;
      done += part;
    }
    if (size < 0)
      return -1;
  }
  *why = NULL;
  return ftruncate(fd, (off_t)e->size);
}

static int put_file(int parent, const char *name, const struct tar_entry *e, const char **why) {
  cleanup_fd int fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  return fd < 0 || write_data(fd, e, why) < 0 ? -1 : dress(fd, e);
}

static int put_directory(int parent, const char *name, const char *path, const struct tar_entry *e, int room) {
  if (room == LINKED)
    return 0;
  if (room == FREE && mkdirat(parent, name, 0700) < 0)
    return -1;
  cleanup_fd int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  struct dated *dated = malloc(sizeof *dated + strlen(path) + 1);
  if (fd < 0 || !dated || dress(fd, e) < 0) {
    free(dated);
    return -1;
  }
  dated->next = u.dated;
  dated->mtime = e->mtime;
  strcpy(dated->path, path);
  u.dated = dated;
  return 0;
}

static int put_link(int parent, const char *name, const struct tar_entry *e) {
  char target[MAX_PATH_TEXT], path[MAX_PATH_TEXT];
  if (clean(e->link, target, sizeof target) < 0 || !*target) {
    errno = EINVAL;
    return -1;
  }
  if (joined(target, path, sizeof path) < 0)
    return -1;
  cleanup_fd int fd = path_open(u.root, path, O_PATH | O_NOFOLLOW, 0);
  return fd < 0 ? -1 : linkat(fd, "", parent, name, AT_EMPTY_PATH);
}

static int put_special(int parent, const char *name, const struct tar_entry *e) {
  char self[40];
  struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, e->mtime};
  mode_t type = e->kind == '3' ? S_IFCHR : e->kind == '4' ? S_IFBLK : S_IFIFO;
  if (e->kind == '2' ? symlinkat(e->link, parent, name) : mknodat(parent, name, type | 0600, makedev((unsigned)e->major, (unsigned)e->minor)))
    return -1;
  cleanup_fd int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  uid_t uid = u.own ? u.uid : (uid_t)e->uid;
  gid_t gid = u.own ? u.gid : (gid_t)e->gid;
  if (fd < 0 || fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0)
    return -1;
  snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
  if (e->kind != '2' && chmod(self, mode_of(e)) < 0)
    return -1;
  return utimensat(fd, "", times, AT_EMPTY_PATH);
}

static int put(const char *path, const struct tar_entry *e, const char **why) {
  const char *name;
  *why = NULL;
  int parent = open_parent(path, &name);
  int room = parent < 0 ? -1 : make_room(parent, name, path, e->kind, why);
  if (room < 0)
    return -1;
  if (e->uid > UINT32_MAX - 1 || e->gid > UINT32_MAX - 1 || e->major > 4095 || e->minor > 1048575) {
    errno = EINVAL;
    return -1;
  }
  if (e->kind == '0')
    return put_file(parent, name, e, why);
  if (e->kind == '5')
    return put_directory(parent, name, path, e, room);
  return e->kind == '1' ? put_link(parent, name, e) : put_special(parent, name, e);
}

static int set_dates(void) {
  for (struct dated *d; (d = u.dated); free(d)) {
    u.dated = d->next;
    struct timespec times[] = {{.tv_nsec = UTIME_OMIT}, d->mtime};
    cleanup_fd int fd = path_open(u.root, d->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd >= 0 && futimens(fd, times) < 0)
      return -1;
  }
  return 0;
}

/* Where the archive goes: a directory; or, for a single member, possibly its new name. Links are followed. */
static int find_base(const struct unpack_options *o, const char **why) {
  struct stat s;
  char path[MAX_PATH_TEXT], real[MAX_PATH_TEXT];
  size_t size = strlen(o->target);
  bool directory = size == 0 || o->target[size - 1] == '/' || !o->single;
  if (clean(o->target, path, sizeof path) < 0) {
    errno = EINVAL;
    return -1;
  }
  if (path_real(u.root, path, real) < 0)
    return -1;
  strcpy(u.base, real + 1);
  cleanup_fd int fd = path_open(u.root, real, O_PATH | O_NOFOLLOW, 0);
  if (fd >= 0 && fstat(fd, &s) == 0 && S_ISDIR(s.st_mode))
    return 0;
  if (directory && fd >= 0) {
    *why = "cannot copy to non-directory";
    return -1;
  }
  if (directory) {
    cleanup_fd int made = open_made(u.base);
    return made < 0 ? -1 : 0;
  }
  char *slash = strrchr(u.base, '/');
  snprintf(u.rename, sizeof u.rename, "%s", slash ? slash + 1 : u.base);
  *(slash ? slash : u.base) = 0;
  return 0;
}

static int read_options(const struct unpack_options *o) {
  char user[256];
  mode_t mode = 0;
  u.copy = o->copy;
  if (strcmp(o->mode, "-") != 0) {
    if (!mode_apply(o->mode, false, &mode))
      return tool_failed("bad mode %s", o->mode);
    u.mode = o->mode;
  }
  if (strcmp(o->owner, "-") == 0)
    return 0;
  u.own = true;
  snprintf(user, sizeof user, "%s", o->owner);
  char *group = strchr(user, ':');
  if (group)
    *group++ = 0;
  if (users_owner(u.root, *user ? user : "0", false, &u.uid) < 0)
    return tool_failed("no user %s in /etc/passwd", user);
  u.gid = u.uid; /* as Docker: a number without a group means the group of the same number, */
  if (group && users_owner(u.root, group, true, &u.gid) < 0)
    return tool_failed("no group %s in /etc/group", group);
  uint64_t number;
  if (!group && !parse_u64(user, 10, UINT32_MAX - 1, &number))
    u.gid = users_main_group(u.root, user); /* a name that user's group */
  return 0;
}

int unpack(const struct unpack_options *o) {
  struct tar_entry e = {0};
  const char *why = NULL;
  char name[MAX_PATH_TEXT], path[MAX_PATH_TEXT];
  int more, result = 0;
  umask(0);
  fcntl(0, F_SETPIPE_SZ, 1 << 20);
  u.root = open(o->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (u.root < 0)
    return tool_failed("unpack into %s: %s", o->root, strerror(errno));
  if (read_options(o))
    return 1;
  if (find_base(o, &why) < 0)
    return tool_failed("unpack into %s: %s", o->target, why ? why : strerror(errno));
  while ((more = tar_next(&e, &why)) > 0) {
    if (clean(e.name, name, sizeof name) < 0)
      return tool_failed("unpack: a member with a bad name: %.200s", e.name);
    if (!*name && e.kind == '5')
      continue; /* "./": the target itself */
    if (*u.rename)
      snprintf(name, sizeof name, "%s", u.rename);
    if (!*name || joined(name, path, sizeof path) < 0 || (result = put(path, &e, &why)) < 0)
      return tool_failed("unpack %.200s: %s", e.name, why ? why : strerror(errno));
  }
  if (more < 0)
    return tool_failed("unpack: %s", why ? why : strerror(errno));
  (void)tar_drain();
  return set_dates() < 0 ? tool_failed("unpack: %s", strerror(errno)) : 0;
}
