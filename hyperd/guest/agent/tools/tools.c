#define _GNU_SOURCE
#include "tools/tools.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/carrier.h"

/* Copy between two trees of this guest: a packer that sees one as its root, an unpacker in the other. */
static int copy(const char *from, struct unpack_options *options, char **patterns, int count) {
  int ends[2], status;
  char kind = 0;
  if (pipe(ends) < 0)
    return tool_failed("copy: %s", strerror(errno));
  pid_t pid = fork();
  if (pid < 0)
    return tool_failed("copy: %s", strerror(errno));
  if (pid == 0) {
    dup2(ends[1], 1);
    close(ends[0]);
    close(ends[1]);
    _exit(pack_tree(from, patterns, count, true));
  }
  dup2(ends[0], 0);
  close(ends[0]);
  close(ends[1]);
  bool begun = RETRY(read(0, &kind, 1)) == 1;
  options->single = kind == 'F';
  int result = begun ? unpack(options) : 0;
  close(0);
  if (RETRY(waitpid(pid, &status, 0)) < 0 || status != 0)
    result = 1;
  return result;
}

/* Process 1 of a pid namespace that containers share: what they leave behind is reaped. Signals do nothing to it. */
static void __attribute__((noreturn)) stay(void) {
  signal(SIGCHLD, SIG_IGN);
  for (;;)
    pause();
}

int tool_main(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[1], "--stay") == 0)
    stay();
  if (argc > 2 && strcmp(argv[1], "--records") == 0) {
    carrier_on();
    argv++;
    argc--;
  }
  const char *tool = argc >= 3 ? argv[1] : "";
  if (strcmp(tool, "--pack") == 0)
    return pack_difference(argv[2], argc > 3 ? argv[3] : NULL, argv + 4, argc > 4 ? argc - 4 : 0);
  if (strcmp(tool, "--pack-tree") == 0)
    return pack_tree(argv[2], argv + 3, argc - 3, false);
  if (strcmp(tool, "--pack-path") == 0 && (argc == 5 || argc == 6))
    return pack_path(argv[2], argv[3], argv[4], argc == 6 ? argv[5] : NULL);
  if (strcmp(tool, "--pack-device") == 0 && argc == 3)
    return pack_device(argv[2]);
  if (strcmp(tool, "--stat") == 0 && argc == 5)
    return look_stat(argv[2], argv[3], argv[4]);
  if (strcmp(tool, "--changes") == 0 && argc >= 4)
    return look_changes(argv[2], argv[3], argv + 4, argc - 4);
  if (strcmp(tool, "--processes") == 0 && argc == 3)
    return look_processes(argv[2]);
  if (strcmp(tool, "--connect") == 0 && argc == 3)
    return connect_port(argv[2]);
  if (strcmp(tool, "--unpack") == 0 && argc <= 8) {
    /* ROOT TARGET OWNER MODE [single] [copy] */
    struct unpack_options o = {.root = argv[2], .target = argc > 3 ? argv[3] : "/", .owner = "-", .mode = "-"};
    o.owner = argc > 4 ? argv[4] : "-";
    o.mode = argc > 5 ? argv[5] : "-";
    for (int i = 6; i < argc; i++) {
      o.single = o.single || strcmp(argv[i], "single") == 0;
      o.copy = o.copy || strcmp(argv[i], "copy") == 0;
    }
    return unpack(&o);
  }
  if (strcmp(tool, "--copy") == 0 && argc >= 8) {
    /* FROM ROOT TARGET OWNER MODE PATTERN... */
    struct unpack_options o = {.root = argv[3], .target = argv[4], .owner = argv[5], .mode = argv[6], .copy = true};
    return copy(argv[2], &o, argv + 7, argc - 7);
  }
  return -1;
}
