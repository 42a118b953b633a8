#include "tools/failed.h"

#include <stdarg.h>
#include <stdio.h>

int tool_failed(const char *fmt, ...) {
  va_list args;
  va_start(args, fmt);
  vfprintf(stderr, fmt, args);
  va_end(args);
  fputc('\n', stderr);
  return 1;
}
