/* Modules of the kernel. */
#pragma once

/* Load what a file lists, one path a line; no such file is fine. Loaded files are removed. */
void load_modules(const char *list);
