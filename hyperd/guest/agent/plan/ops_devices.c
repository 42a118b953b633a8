/* Devices of a container: which its processes may use, and their nodes. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "plan/paths.h"
#include "plan/plan.h"
#include "process/cgroup.h"

enum { MAX_RULES = 128, RULE_SIZE = 8, FRAME_SIZE = 6, ANY = -1 };

/* A device, or all with a number missing (ANY), and what may be done with it: BPF_DEVCG_ACC_* bits. */
struct rule {
  int type, major, minor, access; /* type: BPF_DEVCG_DEV_*, or ANY */
};

static bool read_access(const char *text, int *out) {
  for (*out = 0; *text; text++) {
    int bit = *text == 'r' ? BPF_DEVCG_ACC_READ : *text == 'w' ? BPF_DEVCG_ACC_WRITE : *text == 'm' ? BPF_DEVCG_ACC_MKNOD : 0;
    if (!bit)
      return false;
    *out |= bit;
  }
  return *out != 0;
}

static bool read_number(const char *text, int *out) {
  uint64_t value;
  *out = ANY;
  if (strcmp(text, "*") == 0)
    return true;
  if (!parse_u64(text, 10, INT32_MAX, &value))
    return false;
  *out = (int)value;
  return true;
}

/* "c 1:3 rwm", "b *:* m", "a *:* rwm", or a device of the agent's own root: "/dev/fuse rw". */
static int read_rule(const char *text, struct rule *out) {
  char copy[512], *rest = copy;
  struct stat stat_node;
  if ((size_t)snprintf(copy, sizeof copy, "%s", text) >= sizeof copy)
    return errno = EINVAL, -1;
  if (*copy == '/') {
    char *access = strrchr(copy, ' ');
    if (!access || !read_access(access + 1, &out->access))
      return errno = EINVAL, -1;
    *access = 0;
    if (stat(copy, &stat_node) < 0)
      return -1;
    if (!S_ISCHR(stat_node.st_mode) && !S_ISBLK(stat_node.st_mode))
      return errno = ENODEV, -1;
    out->type = S_ISBLK(stat_node.st_mode) ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
    out->major = (int)major(stat_node.st_rdev);
    out->minor = (int)minor(stat_node.st_rdev);
    return 0;
  }
  char *type = strsep(&rest, " "), *numbers = strsep(&rest, " "), *major_text = strsep(&numbers, ":");
  if (!rest || !numbers || strlen(type) != 1 || !strchr("abc", *type) || !read_number(major_text, &out->major) ||
      !read_number(numbers, &out->minor) || !read_access(rest, &out->access))
    return errno = EINVAL, -1;
  out->type = *type == 'a' ? ANY : *type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
  return 0;
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion" /* bit fields of four bits; registers are below 11 */
static struct bpf_insn insn(int code, int to, int from, int offset, int value) {
  return (struct bpf_insn){.code = (uint8_t)code, .dst_reg = (uint8_t)to, .src_reg = (uint8_t)from, .off = (int16_t)offset, .imm = value};
}
#pragma GCC diagnostic pop

/* Leave the rule when a register has another value; `left` instructions of it follow. */
static struct bpf_insn unless(int reg, int value, int left) { return insn(BPF_JMP | BPF_JNE | BPF_K, reg, 0, left, value); }

/* r2 = type, r3 = access, r4 = major, r5 = minor; a rule that fits ends the program with 1. Always RULE_SIZE instructions. */
static void write_rule(struct bpf_insn *out, const struct rule *r) {
  const struct bpf_insn nothing = insn(BPF_JMP | BPF_JA, 0, 0, 0, 0);
  out[0] = r->type == ANY ? nothing : unless(BPF_REG_2, r->type, 7);
  out[1] = insn(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_1, BPF_REG_3, 0, 0);
  out[2] = insn(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_1, 0, 0, ~r->access & 7);
  out[3] = unless(BPF_REG_1, 0, 4);
  out[4] = r->major == ANY ? nothing : unless(BPF_REG_4, r->major, 3);
  out[5] = r->minor == ANY ? nothing : unless(BPF_REG_5, r->minor, 2);
  out[6] = insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 1);
  out[7] = insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

static unsigned write_program(struct bpf_insn *out, const struct rule *rules, unsigned count) {
  const int word = BPF_LDX | BPF_MEM | BPF_W;
  struct bpf_insn *at = out;
  *at++ = insn(word, BPF_REG_2, BPF_REG_1, 0, 0);
  *at++ = insn(BPF_ALU64 | BPF_MOV | BPF_X, BPF_REG_3, BPF_REG_2, 0, 0);
  *at++ = insn(BPF_ALU64 | BPF_AND | BPF_K, BPF_REG_2, 0, 0, 0xffff);
  *at++ = insn(BPF_ALU64 | BPF_RSH | BPF_K, BPF_REG_3, 0, 0, 16);
  *at++ = insn(word, BPF_REG_4, BPF_REG_1, 4, 0);
  *at++ = insn(word, BPF_REG_5, BPF_REG_1, 8, 0);
  for (unsigned i = 0; i < count; i++, at += RULE_SIZE)
    write_rule(at, &rules[i]);
  *at++ = insn(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, 0);
  *at++ = insn(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
  return (unsigned)(at - out);
}

static int load_and_attach(const struct bpf_insn *program, unsigned size, const char *group) {
  char path[512];
  if (snprintf(path, sizeof path, "%s/%s", cgroup_root, group) >= (int)sizeof path)
    return errno = ENAMETOOLONG, -1;
  cleanup_fd int group_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (group_fd < 0)
    return -1;
  union bpf_attr attr = {0};
  attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attr.insns = (uint64_t)(uintptr_t)program;
  attr.insn_cnt = size;
  attr.license = (uint64_t)(uintptr_t)"Apache-2.0";
  cleanup_fd int program_fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
  if (program_fd < 0)
    return -1;
  memset(&attr, 0, sizeof attr);
  attr.target_fd = (uint32_t)group_fd;
  attr.attach_bpf_fd = (uint32_t)program_fd;
  attr.attach_type = BPF_CGROUP_DEVICE;
  return (int)syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr);
}

/* The processes of a group may use the devices of the rules and no others. */
int op_devices(struct plan *plan, const struct step *step, struct err *e) {
  static struct rule rules[MAX_RULES];
  static struct bpf_insn program[FRAME_SIZE + MAX_RULES * RULE_SIZE + 2];
  (void)plan;
  if (step->count - 1 > MAX_RULES)
    return step_failed(step, E2BIG, e);
  for (unsigned i = 1; i < step->count; i++)
    if (read_rule(step->args[i].text, &rules[i - 1]) < 0)
      return err_reason(e, errno, "DEVICES %.300s", step->args[i].text);
  unsigned size = write_program(program, rules, step->count - 1);
  return load_and_attach(program, size, step->args[0].text) < 0 ? step_failed(step, errno, e) : 0;
}

static int make_node(int root_fd, const struct stat *node, const char *target) {
  char name[256];
  cleanup_fd int parent = path_parent(root_fd, target, true, name);
  if (parent < 0)
    return -1;
  mode_t mode = (node->st_mode & S_IFMT) | (node->st_mode & 07777 ? node->st_mode & 07777 : 0600);
  return mknodat(parent, name, mode, node->st_rdev) < 0 && errno != EEXIST ? -1 : 0;
}

/* Ports to the host and the serial console, by both of its names, are the agent's, also where a container may have
 * everything else. */
static bool is_ours(const char *name) {
  return strncmp(name, "vport", 5) == 0 || strncmp(name, "ttyS", 4) == 0 || strcmp(name, "console") == 0 || name[0] == '.';
}

static int make_nodes(int root_fd, const char *source, const char *target) {
  char from[MAX_PATH_TEXT], to[MAX_PATH_TEXT];
  struct stat node;
  int result = 0;
  DIR *dir = opendir(source);
  if (!dir)
    return -1;
  for (struct dirent *entry; result == 0 && (entry = readdir(dir));) {
    if (is_ours(entry->d_name) || (size_t)snprintf(from, sizeof from, "%s/%s", source, entry->d_name) >= sizeof from ||
        (size_t)snprintf(to, sizeof to, "%s/%s", target, entry->d_name) >= sizeof to || lstat(from, &node) < 0)
      continue;
    if (S_ISCHR(node.st_mode) || S_ISBLK(node.st_mode))
      result = make_node(root_fd, &node, to);
  }
  int saved = errno;
  closedir(dir);
  errno = saved;
  return result;
}

/* Make the node of a device of the agent's own root below OPENROOT, or those of all in a directory. */
int op_nodes(struct plan *plan, const struct step *step, struct err *e) {
  struct stat node;
  const char *source = step->args[0].text, *target = step->args[1].text;
  if (stat(source, &node) < 0)
    return step_failed(step, errno, e);
  if (S_ISDIR(node.st_mode))
    return make_nodes(plan->root_fd, source, target) < 0 ? step_failed(step, errno, e) : 0;
  if (!S_ISCHR(node.st_mode) && !S_ISBLK(node.st_mode))
    return step_failed(step, ENODEV, e);
  return make_node(plan->root_fd, &node, target) < 0 ? step_failed(step, errno, e) : 0;
}
