/* One step of a plan. */
#pragma once

#include "wire/util.h"

/* Arguments are NUL-terminated copies. */
struct arg {
  const char *text;
  size_t size;
};

struct step {
  unsigned op, count;
  struct arg *args;
  const char *name; /* of the op */
};

/* Set the error of a step that failed: "NAME arguments: reason". Returns -1. */
int step_failed(const struct step *step, int code, struct err *e);
