/* Programs inside the agent's binary: archives of directories, connections (docs/protocol.md, "Tools"). */
#pragma once

#include "tools/failed.h"
#include "wire/util.h"

/* Run the tool that the command line names and return its exit status; -1 = it names none. */
int tool_main(int argc, char **argv);

/* pack.c. `lower` may be NULL; `skip` are paths of a difference that are mount points and nothing else. */
int pack_difference(const char *upper, const char *lower, char **skip, int skip_count);
/* Pack what the patterns match below `root`: a directory's content, anything else under its last name. */
int pack_tree(const char *root, char **patterns, int count, bool announce);
/* Pack `name` in `directory` as `as` (NULL = its own name), a link as a link; of the name "." the directory's content. */
int pack_path(const char *root, const char *directory, const char *name, const char *as);
/* Pack everything below `root`, of what something is mounted on only the name. */
int pack_device(const char *root);

/* look.c */
int look_stat(const char *root, const char *directory, const char *name);
int look_changes(const char *upper, const char *lower, char **skip, int skip_count);
int look_processes(const char *group);

/* connect.c: stdin and stdout to a program that listens on this guest's loopback, until that ends. */
int connect_port(const char *port);

/* unpack.c */
struct unpack_options {
  const char *root, *target, *owner, *mode; /* owner `user[:group]`, mode as of mode.h; "-" = as the archive says */
  bool single;                              /* one member that is not a directory: `target` may be its new name */
  bool copy;                                /* COPY's rules: a directory and anything else never replace each other */
};
int unpack(const struct unpack_options *options);
