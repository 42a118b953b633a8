#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/ip_vs.h>
#include <linux/random.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/ether.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "plan/modules.h"
#include "plan/netlink.h"
#include "plan/plan.h"

enum { LINK_WAIT_MS = 15000, MAX_ENTROPY = 4096 };

int op_hostname(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  return sethostname(step->args[0].text, step->args[0].size) < 0 ? step_failed(step, errno, e) : 0;
}

int op_time(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  uint64_t seconds, nanoseconds;
  if (!parse_u64(step->args[0].text, 10, INT64_MAX, &seconds) || !parse_u64(step->args[1].text, 10, 999999999, &nanoseconds))
    return step_failed(step, EINVAL, e);
  struct timespec t = {(time_t)seconds, (long)nanoseconds};
  return clock_settime(CLOCK_REALTIME, &t) < 0 ? step_failed(step, errno, e) : 0;
}

int op_entropy(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  size_t size = step->args[0].size;
  struct {
    struct rand_pool_info info;
    uint8_t bytes[MAX_ENTROPY];
  } pool;
  if (size > MAX_ENTROPY)
    return err_set(e, E2BIG, "ENTROPY: over %d bytes", MAX_ENTROPY);
  pool.info.entropy_count = (int)size * 8;
  pool.info.buf_size = (int)size;
  memcpy(pool.info.buf, step->args[0].text, size);
  cleanup_fd int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) < 0)
    return err_reason(e, errno, "ENTROPY");
  /* Added bytes are only used at the generator's next turn, up to a minute later; a clone of a VM needs others at once. */
  if (ioctl(fd, RNDRESEEDCRNG) < 0 && errno != ENODATA) /* not seeded yet: the bytes will be part of it */
    return err_reason(e, errno, "ENTROPY");
  return 0;
}

/* Find a link by its address or name. */
static unsigned find_link(const char *wanted, char name[IF_NAMESIZE]) {
  DIR *dir = opendir("/sys/class/net");
  unsigned found = 0;
  for (struct dirent *e; dir && !found && (e = readdir(dir));) {
    char path[300], address[64];
    snprintf(path, sizeof path, "/sys/class/net/%s/address", e->d_name);
    if (e->d_name[0] == '.' || strlen(e->d_name) >= IF_NAMESIZE || read_small(path, address, sizeof address) < 0)
      continue;
    address[strcspn(address, "\n")] = 0;
    if (strcasecmp(address, wanted) == 0 || strcmp(e->d_name, wanted) == 0) {
      snprintf(name, IF_NAMESIZE, "%.15s", e->d_name);
      found = if_nametoindex(name);
    }
  }
  if (dir)
    closedir(dir);
  return found;
}

int op_link(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  char name[IF_NAMESIZE] = "";
  const char *wanted = step->args[1].text;
  uint64_t mtu;
  unsigned index;
  if (!parse_u64(step->args[2].text, 10, 65535, &mtu) || step->args[1].size >= IF_NAMESIZE)
    return step_failed(step, EINVAL, e);
  for (uint64_t end = now_ms() + LINK_WAIT_MS; !(index = find_link(step->args[0].text, name)); pause_us(1000))
    if (now_ms() >= end)
      return step_failed(step, ENODEV, e);
  bool rename = *wanted && strcmp(wanted, name) != 0;
  return net_link_set(index, rename ? wanted : NULL, (uint32_t)mtu, true) < 0 ? step_failed(step, errno, e) : 0;
}

int op_mac(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  struct ifreq request = {0};
  struct ether_addr address;
  if (!ether_aton_r(step->args[1].text, &address))
    return step_failed(step, EINVAL, e);
  if (!find_link(step->args[0].text, request.ifr_name))
    return step_failed(step, ENODEV, e);
  request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  memcpy(request.ifr_hwaddr.sa_data, &address, sizeof address);
  cleanup_fd int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  return fd < 0 || ioctl(fd, SIOCSIFHWADDR, &request) < 0 ? step_failed(step, errno, e) : 0;
}

int op_linkdown(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  unsigned index = if_nametoindex(step->args[0].text);
  if (!index)
    return 0;
  if (net_addresses_flush(index) < 0 || net_link_down(index) < 0)
    return step_failed(step, errno, e);
  return 0;
}

int op_addr(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  struct net_address address;
  unsigned index = if_nametoindex(step->args[0].text);
  if (!index)
    return step_failed(step, ENODEV, e);
  if (!net_parse(step->args[1].text, &address))
    return step_failed(step, EINVAL, e);
  return net_address_add(index, &address) < 0 && errno != EEXIST ? step_failed(step, errno, e) : 0;
}

int op_route(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  struct net_address to = {0}, gateway;
  const char *via = step->args[1].text, *device = step->args[2].text;
  unsigned index = *device ? if_nametoindex(device) : 0;
  if (*device && !index)
    return step_failed(step, ENODEV, e);
  if (*via && !net_parse(via, &gateway))
    return step_failed(step, EINVAL, e);
  if (strcmp(step->args[0].text, "default") == 0)
    to.family = *via ? gateway.family : AF_INET;
  else if (!net_parse(step->args[0].text, &to))
    return step_failed(step, EINVAL, e);
  return net_route_set(&to, *via ? &gateway : NULL, index) < 0 ? step_failed(step, errno, e) : 0;
}

int op_local(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  struct net_address to, source;
  const char *from = step->args[1].text;
  if (!net_parse(step->args[0].text, &to) || (*from && !net_parse(from, &source)))
    return step_failed(step, EINVAL, e);
  if (net_local_set(&to, *from ? &source : NULL) < 0 && (*from || errno != ESRCH))
    return step_failed(step, errno, e);
  return 0;
}

/* A command of the kernel's load balancer as the host has made it; linux/ip_vs.h names the commands and their structs. */
int op_ipvs(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  uint64_t command;
  if (!parse_u64(step->args[0].text, 10, IP_VS_SO_SET_MAX - IP_VS_BASE_CTL, &command))
    return step_failed(step, EINVAL, e);
  cleanup_fd int fd = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
  int option = IP_VS_BASE_CTL + (int)command;
  if (fd < 0 || setsockopt(fd, IPPROTO_IP, option, step->args[1].text, (socklen_t)step->args[1].size) < 0)
    return step_failed(step, errno, e);
  return 0;
}

/* Modules that few pods need; a kernel that has them built in has no such list. */
int op_modules(struct plan *plan, const struct step *step, struct err *e) {
  (void)plan;
  char path[128];
  if (strchr(step->args[0].text, '/') || step->args[0].size > 64)
    return step_failed(step, EINVAL, e);
  snprintf(path, sizeof path, "/etc/modules.%s", step->args[0].text);
  load_modules(path);
  unlink(path);
  return 0;
}
