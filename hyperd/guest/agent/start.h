/* START: a process from a plan. */
#pragma once

#include "wire/util.h"

/* Begin; the answer comes when the program was exec'ed or a step failed. */
int start_process(uint32_t request, const uint8_t *payload, size_t size, struct err *e);
