/* What the guest needs before the first request. */
#pragma once

/* Mounts, modules, the root, lo. Failures are logged: a guest that can still talk is better than none. */
void boot_guest(void);
