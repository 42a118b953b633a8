/* The last part of a START: the program itself. */
#pragma once

#include "plan/plan.h"

/* Become the program (or its namespace's init); returns only with an error. */
void launch(struct plan *plan, struct err *e);
