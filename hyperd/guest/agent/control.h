/* The control port: requests in, answers and events out. */
#pragma once

#include "port.h"
#include "process.h"

extern struct port control_port;

int control_init(void);
void control_respond(uint32_t request, const void *payload, size_t size);
void control_error(uint32_t request, const struct err *e);
void control_started(uint32_t request, const struct process *p);
