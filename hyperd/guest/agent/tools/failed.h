/* How a tool ends that failed. */
#pragma once

/* Write a message on stderr. Returns 1, the exit status. */
int tool_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
