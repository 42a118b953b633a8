/* The environment of a program. */
#pragma once

#include "wire/util.h"

struct env {
  char **items; /* NULL at the end; NULL itself when nothing was added */
  size_t count, room;
};

/* Add `NAME=VALUE`, which must live as long as the environment. */
int env_add(struct env *env, const char *item, struct err *e);
/* The first value of a name; NULL = it has none. */
const char *env_get(const struct env *env, const char *name);
/* Set a name that has no value yet; an empty value is left out. */
int env_default(struct env *env, const char *name, const char *value, struct err *e);
