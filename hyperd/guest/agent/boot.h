/* What the guest needs before the first request. */
#pragma once

/* Mounts, modules, the root, lo. Failures are logged: a guest that can still talk is better than none. */
void boot_guest(void);
/* Load what a file lists, one path a line; no such file is fine. Loaded files are removed. */
void load_modules(const char *list);
