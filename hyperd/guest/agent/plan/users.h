/* Users and groups of the current root's /etc/passwd and /etc/group. */
#pragma once

#include "plan/step.h"

enum { MAX_GROUPS = 256, MAX_USER_TEXT = (MAX_GROUPS + 2) * 11 + 1 };

struct identity {
  uid_t uid;
  gid_t gid;
  gid_t groups[MAX_GROUPS];
  int group_count;
  char name[256]; /* empty when the user has no entry */
  char home[1024];
};

/* Look up the arguments of a USER step (NULL = root). */
int users_lookup(const struct step *step, struct identity *out, struct err *e);
/* The number of an owner: a number, or a name in the /etc/passwd or /etc/group below root_fd; -1 = no such name. */
int users_owner(int root_fd, const char *text, bool group, uint32_t *out);
/* The group that the /etc/passwd below root_fd gives a user; 0 = it has no such user. */
uint32_t users_main_group(int root_fd, const char *user);
