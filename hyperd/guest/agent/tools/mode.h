/* Modes of files as chmod takes them: octal, or symbolic (POSIX, utility chmod). */
#pragma once

#include <sys/types.h>

#include "wire/util.h"

/* Apply a mode to the permission bits of a file; without u, g, o or a it means all. False: it is no mode. */
bool mode_apply(const char *text, bool directory, mode_t *mode);
