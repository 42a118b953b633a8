/* Opening paths, below a directory as their root where a plan asks for it (OPENROOT). */
#pragma once

#include "wire/util.h"

/* open(); with a root, no link and no .. leads out of it. O_CLOEXEC is added. */
int path_open(int root_fd, const char *path, int flags, mode_t mode);
/* Open the directory that holds the last part of `path` and copy that part; with `make`, missing directories are made (0755). */
int path_parent(int root_fd, const char *path, bool make, char name[256]);
/* Follow every link of a path inside the root, also those that lead nowhere: `out` names the same from the root on, without
   links, "." and "..". What is missing has no links; a ".." behind it goes back to where it would be. -1 with errno. */
int path_real(int root_fd, const char *path, char out[MAX_PATH_TEXT]);
/* Open (O_PATH) what a path names below a root, and make it when it is missing: a directory, or an empty file.
   Links are followed inside the root, also one that leads nowhere: then its target is made (parents 0755). -1 with errno. */
int path_make(int root_fd, const char *path, bool directory, mode_t mode);
/* The number of the mount that `name` (links not followed), or dir_fd itself for "" with AT_EMPTY_PATH, is on. A device
   number tells less: a bind mount shares it, and overlayfs gives files other ones than directories. -1 with errno. */
int path_mount_id(int dir_fd, const char *name, int flags, uint64_t *out);
/* Remove a file or a whole tree, never across a mount. Missing is fine. -1 with errno. */
int path_remove(int parent_fd, const char *name);
