#include "tools/mode.h"

#include <string.h>

enum { READ = 0444, WRITE = 0222, EXECUTE = 0111, USER = 04700, GROUP = 02070, OTHERS = 01007 };

/* The permissions that user, group or others have now, for all three of them. */
static mode_t same_as(char who, mode_t mode) {
  mode_t bits = (who == 'u' ? mode >> 6 : who == 'g' ? mode >> 3 : mode) & 7;
  return bits * 0111;
}

/* Who is meant: the bits that may change; set-id and sticky bits go with their owners. */
static mode_t read_who(const char **at) {
  mode_t who = 0;
  for (;; (*at)++) {
    if (**at == 'u')
      who |= USER;
    else if (**at == 'g')
      who |= GROUP;
    else if (**at == 'o')
      who |= OTHERS;
    else if (**at == 'a')
      who |= 07777;
    else
      return who ? who : 07777;
  }
}

/* What is set or taken away, for everybody. */
static mode_t read_permissions(const char **at, bool directory, mode_t mode) {
  mode_t bits = 0;
  if (**at && strchr("ugo", **at))
    return same_as(*(*at)++, mode);
  for (;; (*at)++) {
    switch (**at) {
    case 'r':
      bits |= READ;
      break;
    case 'w':
      bits |= WRITE;
      break;
    case 'x':
      bits |= EXECUTE;
      break;
    case 'X':
      bits |= directory || (mode & EXECUTE) ? EXECUTE : 0;
      break;
    case 's':
      bits |= 06000;
      break;
    case 't':
      bits |= 01000;
      break;
    default:
      return bits;
    }
  }
}

/* One clause, `who` and at least one action. */
static bool clause(const char **at, bool directory, mode_t *mode) {
  mode_t who = read_who(at);
  if (!**at || !strchr("+-=", **at))
    return false;
  while (**at && strchr("+-=", **at)) {
    char action = *(*at)++;
    mode_t bits = read_permissions(at, directory, *mode) & who;
    if (action == '=')
      *mode &= ~who;
    *mode = action == '-' ? *mode & ~bits : *mode | bits;
  }
  return true;
}

bool mode_apply(const char *text, bool directory, mode_t *mode) {
  uint64_t number;
  if (parse_u64(text, 8, 07777, &number)) {
    *mode = (mode_t)number;
    return true;
  }
  mode_t found = *mode;
  for (const char *at = text;; at++) {
    if (!clause(&at, directory, &found))
      return false;
    if (!*at) {
      *mode = found;
      return true;
    }
    if (*at != ',')
      return false;
  }
}
