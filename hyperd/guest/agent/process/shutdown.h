/* The end: programs are asked, then killed, file systems are unmounted, the power goes off. */
#pragma once

#include "wire/util.h"

extern bool hosted; /* test mode: exit instead */

void shutdown_begin(uint64_t grace_ms);
/* Called after each round of the loop. */
void shutdown_work(void);
