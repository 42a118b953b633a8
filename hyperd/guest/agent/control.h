/* The control port: requests in, answers and events out. */
#pragma once

#include "loop/port.h"
#include "process/process.h"

extern struct port control_port;

/* `call` carries a request out; it answers now or later. -1: the error is the answer. */
int control_init(int (*call)(const struct frame *f, struct err *e));
void control_respond(uint32_t request, const void *payload, size_t size);
void control_error(uint32_t request, const struct err *e);
void control_started(uint32_t request, const struct process *p);
