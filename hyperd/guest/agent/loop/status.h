/* What a forked child tells the agent over its socket: one message each, the first byte says which. */
#pragma once

#include "wire/util.h"

enum status_message {
  M_ERROR = 'E',  /* u32 errno, text */
  M_OK = 'O',     /* a plan without a program was carried out */
  M_OUTPUT = 'D', /* a piece of the answer's payload */
  M_WAITED = 'W', /* decimal pid of the process to wait for, with its pidfd */
  M_MAIN = 'M',   /* sent by the program's process just before the exec, with its pidfd and perhaps the terminal */
};

/* The loader of modules still runs: plans wait for the other end to close. -1 = nothing to wait for. */
extern int gate_fd;

/* Send a message with at most two descriptors. -1 with errno. */
int status_send(int status_fd, char type, const void *data, size_t size, const int *fds, unsigned fd_count);
void status_send_error(int status_fd, const struct err *e);
