/* Ends of children, and what the agent and the init of a namespace agree on. */
#pragma once

#include <signal.h>

/* The agent asks an init to signal everything in its namespace: this signal, queued, with the number as value. */
#define SIGNAL_ALL (SIGRTMAX)

/* Return the exit code as shells give it (0-255; 128+n for a signal) of what waitpid() reported. */
int exit_code_of(int wait_status);
