/* What the host can ask for (docs/protocol.md, "Methods"). */
#pragma once

#include "control.h"
#include "wire/records.h"

/* Carry out a request; it answers now or later. -1: `e` is the answer. */
int method_call(const struct frame *f, struct err *e);
