/* Going through trees of files that containers have made. */
#pragma once

#include <dirent.h>

#include "wire/util.h"

enum { TREE_DEPTH = 2048 }; /* deeper ones are refused: a name has at most MAX_PATH_TEXT bytes */

/* Let this process have a descriptor for every level of a deep tree. */
void tree_prepare(void);
/* Does an overlay's directory hide the one below? */
bool tree_is_opaque(int fd);
/* The entries of an open directory, which stays open and where it was. NULL with errno. */
DIR *tree_list(int fd);
/* The next entry but "." and ".."; NULL at the end. */
struct dirent *tree_next(DIR *dir);
/* Close; keeps errno; fine for NULL. */
void tree_end(DIR *dir);
