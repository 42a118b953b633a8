#define _GNU_SOURCE
#include "plan/users.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "plan/paths.h"

enum { MAX_FIELDS = 8, LINE_SIZE = 65536, MAX_ID = 0x7fffffff };

/* Walk over the lines of a colon-separated file; `visit` returns true to stop. A missing or odd file has no lines. */
static void each_line(int root_fd, const char *path, bool (*visit)(char **fields, int count, void *argument), void *argument) {
  static char line[LINE_SIZE];
  struct stat stat;
  int fd = path_open(root_fd, path, O_RDONLY | O_NONBLOCK, 0);
  if (fd < 0 || fstat(fd, &stat) < 0 || !S_ISREG(stat.st_mode)) {
    close_fd(&fd);
    return;
  }
  FILE *file = fdopen(fd, "re");
  for (bool stop = false; file && !stop && fgets(line, sizeof line, file);) {
    char *fields[MAX_FIELDS] = {0}, *rest = line;
    int count = 0;
    line[strcspn(line, "\n")] = 0;
    while (rest && count < MAX_FIELDS)
      fields[count++] = strsep(&rest, ":");
    stop = visit(fields, count, argument);
  }
  if (file)
    fclose(file);
}

struct search {
  const char *name; /* what is looked for: a name or, when `by_id`, a number */
  bool by_id, found;
  uint64_t id;
  struct identity *out;
};

static bool number(const char *text, uint64_t *out) { return parse_u64(text, 10, MAX_ID, out); }

static bool see_user(char **fields, int count, void *argument) {
  struct search *s = argument;
  uint64_t uid, gid;
  if (count < 6 || !number(fields[2], &uid) || !number(fields[3], &gid))
    return false;
  if (s->by_id ? uid != s->id : strcmp(fields[0], s->name) != 0)
    return false;
  s->found = true;
  s->out->uid = (uid_t)uid;
  s->out->gid = (gid_t)gid;
  snprintf(s->out->name, sizeof s->out->name, "%s", fields[0]);
  snprintf(s->out->home, sizeof s->out->home, "%s", fields[5]);
  return true;
}

static bool see_group(char **fields, int count, void *argument) {
  struct search *s = argument;
  if (count < 3 || strcmp(fields[0], s->name) != 0 || !number(fields[2], &s->id))
    return false;
  s->found = true;
  return true;
}

static void add_group(struct identity *who, gid_t gid) {
  for (int i = 0; i < who->group_count; i++)
    if (who->groups[i] == gid)
      return;
  if (who->group_count < MAX_GROUPS)
    who->groups[who->group_count++] = gid;
}

static bool see_member(char **fields, int count, void *argument) {
  struct identity *who = argument;
  uint64_t gid;
  if (count < 4 || !number(fields[2], &gid))
    return false;
  char *rest = fields[3];
  for (char *member; (member = strsep(&rest, ","));)
    if (strcmp(member, who->name) == 0)
      add_group(who, (gid_t)gid);
  return false;
}

static int group_id(const char *text, gid_t *out, struct err *e) {
  struct search s = {.name = text};
  each_line(-1, "/etc/group", see_group, &s);
  if (!s.found && !number(text, &s.id))
    return err_set(e, ENOENT, "USER: no group %.100s in /etc/group", text);
  *out = (gid_t)s.id;
  return 0;
}

static int find_user(const char *text, struct identity *out, struct err *e) {
  struct search s = {.name = text, .out = out};
  each_line(-1, "/etc/passwd", see_user, &s);
  if (s.found)
    return 0;
  /* Numbers need no entry, but one gives the group and the home. */
  s.by_id = number(text, &s.id);
  if (!s.by_id && strcmp(text, "root") == 0)
    s.by_id = true;
  if (!s.by_id)
    return err_set(e, ENOENT, "USER: no user %.100s in /etc/passwd", text);
  each_line(-1, "/etc/passwd", see_user, &s);
  if (!s.found)
    out->uid = (uid_t)s.id;
  return 0;
}

int users_owner(int root_fd, const char *text, bool group, uint32_t *out) {
  struct identity who;
  struct search s = {.name = text, .out = &who};
  uint64_t id;
  if (parse_u64(text, 10, UINT32_MAX - 1, &id)) {
    *out = (uint32_t)id;
    return 0;
  }
  if (group)
    each_line(root_fd, "/etc/group", see_group, &s);
  else
    each_line(root_fd, "/etc/passwd", see_user, &s);
  if (!s.found && strcmp(text, "root") != 0)
    return -1;
  *out = !s.found ? 0 : group ? (uint32_t)s.id : who.uid;
  return 0;
}

uint32_t users_main_group(int root_fd, const char *user) {
  struct identity who;
  struct search s = {.name = user, .out = &who};
  each_line(root_fd, "/etc/passwd", see_user, &s);
  return s.found ? who.gid : 0;
}

int users_lookup(const struct step *step, struct identity *out, struct err *e) {
  char user[256];
  const char *spec = step ? step->args[0].text : "0";
  memset(out, 0, sizeof *out);
  snprintf(user, sizeof user, "%s", spec);
  char *group = strchr(user, ':'), *members = NULL;
  if (group)
    *group++ = 0;
  if (group && (members = strrchr(group, ':')))
    *members++ = 0;
  if (members && strcmp(members, "all") != 0 && strcmp(members, "none") != 0)
    return err_set(e, ENOENT, "USER: no group %.100s in /etc/group", strchr(spec, ':') + 1);
  if (find_user(*user ? user : "0", out, e) < 0)
    return -1;
  if (group && *group && group_id(group, &out->gid, e) < 0)
    return -1;
  add_group(out, out->gid); /* a set-group-id program must not be able to drop it: what it is refused would be given */
  if (out->name[0] && (members ? strcmp(members, "all") == 0 : !group || !*group))
    each_line(-1, "/etc/group", see_member, out);
  for (unsigned i = 1; step && i < step->count; i++) {
    gid_t gid;
    if (group_id(step->args[i].text, &gid, e) < 0)
      return -1;
    add_group(out, gid);
  }
  if (!out->home[0])
    snprintf(out->home, sizeof out->home, "%s", out->uid == 0 ? "/root" : "/");
  return 0;
}
