#define _GNU_SOURCE
#include "plan/env.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int env_add(struct env *env, const char *item, struct err *e) {
  if (env->count + 1 >= env->room) {
    size_t room = env->room ? env->room * 2 : 32;
    char **grown = realloc(env->items, room * sizeof *grown);
    if (!grown)
      return err_set(e, ENOMEM, "ENV: no memory");
    env->items = grown;
    env->room = room;
  }
  env->items[env->count++] = (char *)item;
  env->items[env->count] = NULL;
  return 0;
}

const char *env_get(const struct env *env, const char *name) {
  size_t size = strlen(name);
  for (size_t i = 0; i < env->count; i++)
    if (strncmp(env->items[i], name, size) == 0 && env->items[i][size] == '=')
      return env->items[i] + size + 1;
  return NULL;
}

int env_default(struct env *env, const char *name, const char *value, struct err *e) {
  char *item;
  if (!*value || env_get(env, name))
    return 0;
  if (asprintf(&item, "%s=%s", name, value) < 0)
    return err_set(e, ENOMEM, "ENV: no memory");
  return env_add(env, item, e);
}
