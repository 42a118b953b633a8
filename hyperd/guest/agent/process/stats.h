/* Counters for STATS; names in docs/protocol.md. */
#pragma once

#include "process/process.h"
#include "wire/records.h"

uint64_t stats_meminfo(const char *name); /* kB; `name` with its colon */
void stats_vm(struct writer *w);
void stats_process(struct writer *w, const struct process *p);
