/* The init of a container's pid namespace. */
#pragma once

#include <signal.h>
#include <sys/types.h>

/* The agent asks an init to signal everything in its namespace: this signal, queued, with the number as value. */
#define SIGNAL_ALL (SIGRTMAX)

/* Reap and pass on signals until `main_pid` ends, then exit as it did. Descriptors are the caller's business. */
void nsinit_run(pid_t main_pid) __attribute__((noreturn));
