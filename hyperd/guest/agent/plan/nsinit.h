/* The init of a container's pid namespace. */
#pragma once

#include <sys/types.h>

/* Reap and pass on signals until `main_pid` ends, then exit as it did. Descriptors are the caller's business. */
void nsinit_run(pid_t main_pid) __attribute__((noreturn));
