#define _GNU_SOURCE
#include "plan/netlink.h"

#include <arpa/inet.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct message {
  struct nlmsghdr head;
  union {
    struct ifinfomsg link;
    struct ifaddrmsg address;
    struct rtmsg route;
    uint8_t space[512];
  };
};

static struct message start(uint16_t type, uint16_t flags, size_t body) {
  struct message m;
  memset(&m, 0, sizeof m);
  m.head = (struct nlmsghdr){(uint32_t)NLMSG_LENGTH(body), type, (uint16_t)(NLM_F_REQUEST | flags), 1, 0};
  return m;
}

static void add(struct message *m, uint16_t type, const void *data, size_t size) {
  struct rtattr *a = (struct rtattr *)((char *)m + NLMSG_ALIGN(m->head.nlmsg_len));
  a->rta_type = type;
  a->rta_len = (uint16_t)RTA_LENGTH(size);
  memcpy(RTA_DATA(a), data, size);
  m->head.nlmsg_len = NLMSG_ALIGN(m->head.nlmsg_len) + RTA_ALIGN(a->rta_len);
}

static int open_route(void) { return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE); }

static int ask(struct message *m) {
  struct {
    struct nlmsghdr head;
    struct nlmsgerr error;
    uint8_t rest[1024];
  } answer;
  cleanup_fd int fd = open_route();
  m->head.nlmsg_flags |= NLM_F_ACK;
  if (fd < 0 || send(fd, m, m->head.nlmsg_len, 0) < 0)
    return -1;
  ssize_t n = RETRY(recv(fd, &answer, sizeof answer, 0));
  if (n < (ssize_t)NLMSG_LENGTH(sizeof answer.error) || answer.head.nlmsg_type != NLMSG_ERROR) {
    errno = EPROTO;
    return -1;
  }
  errno = -answer.error.error;
  return errno ? -1 : 0;
}

static size_t family_size(int family) { return family == AF_INET ? 4 : 16; }

bool net_parse(const char *text, struct net_address *out) {
  char address[64];
  const char *slash = strchr(text, '/');
  size_t size = slash ? (size_t)(slash - text) : strlen(text);
  uint64_t prefix;
  if (size >= sizeof address)
    return false;
  memcpy(address, text, size);
  address[size] = 0;
  out->family = strchr(address, ':') ? AF_INET6 : AF_INET;
  if (inet_pton(out->family, address, out->bytes) != 1)
    return false;
  prefix = family_size(out->family) * 8;
  if (slash && !parse_u64(slash + 1, 10, prefix, &prefix))
    return false;
  out->prefix = (unsigned)prefix;
  return true;
}

static int change_link(unsigned index, const char *name, uint32_t mtu, unsigned flags, unsigned mask) {
  struct message m = start(RTM_NEWLINK, 0, sizeof m.link);
  m.link = (struct ifinfomsg){.ifi_index = (int)index, .ifi_flags = flags, .ifi_change = mask};
  if (name)
    add(&m, IFLA_IFNAME, name, strlen(name) + 1);
  if (mtu)
    add(&m, IFLA_MTU, &mtu, sizeof mtu);
  return ask(&m);
}

int net_link_set(unsigned index, const char *name, uint32_t mtu, bool up) {
  /* Older kernels rename only links that are down. */
  if (name && change_link(index, NULL, 0, 0, IFF_UP) < 0)
    return -1;
  return change_link(index, name, mtu, up ? IFF_UP : 0, up ? IFF_UP : 0);
}

int net_link_down(unsigned index) { return change_link(index, NULL, 0, 0, IFF_UP); }

int net_address_add(unsigned index, const struct net_address *a) {
  size_t size = family_size(a->family);
  struct message m = start(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof m.address);
  m.address = (struct ifaddrmsg){.ifa_family = (uint8_t)a->family, .ifa_prefixlen = (uint8_t)a->prefix, .ifa_index = index};
  if (a->family == AF_INET6)
    m.address.ifa_flags = IFA_F_NODAD; /* the host gave it: nobody else has it, and it must work at once */
  add(&m, IFA_LOCAL, a->bytes, size);
  add(&m, IFA_ADDRESS, a->bytes, size);
  if (a->family == AF_INET && a->prefix < 31) {
    uint32_t broadcast = get32(a->bytes) | (uint32_t)((1ull << (32 - a->prefix)) - 1);
    uint8_t bytes[4];
    put32(bytes, broadcast);
    add(&m, IFA_BROADCAST, bytes, sizeof bytes);
  }
  return ask(&m);
}

static int delete_address(const struct ifaddrmsg *known, const struct rtattr *a, size_t left) {
  struct message m = start(RTM_DELADDR, 0, sizeof m.address);
  m.address = *known;
  for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
    if ((a->rta_type == IFA_LOCAL || a->rta_type == IFA_ADDRESS) && RTA_PAYLOAD(a) <= 16)
      add(&m, a->rta_type, RTA_DATA(a), RTA_PAYLOAD(a));
  return ask(&m);
}

int net_addresses_flush(unsigned index) {
  struct message m = start(RTM_GETADDR, NLM_F_DUMP, sizeof m.address);
  static uint8_t answer[32768] __attribute__((aligned(8)));
  cleanup_fd int fd = open_route();
  if (fd < 0 || send(fd, &m, m.head.nlmsg_len, 0) < 0)
    return -1;
  for (;;) {
    ssize_t n = RETRY(recv(fd, answer, sizeof answer, 0));
    if (n <= 0)
      return -1;
    size_t left = (size_t)n;
    for (struct nlmsghdr *h = (struct nlmsghdr *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
      struct ifaddrmsg *known = NLMSG_DATA(h);
      if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
        return 0;
      if (h->nlmsg_type == RTM_NEWADDR && known->ifa_index == index)
        delete_address(known, IFA_RTA(known), IFA_PAYLOAD(h));
    }
  }
}

int net_route_set(const struct net_address *to, const struct net_address *gateway, unsigned index) {
  struct message m = start(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof m.route);
  m.route = (struct rtmsg){.rtm_family = (uint8_t)to->family,
                           .rtm_dst_len = (uint8_t)to->prefix,
                           .rtm_table = RT_TABLE_MAIN,
                           .rtm_protocol = RTPROT_BOOT,
                           .rtm_scope = gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK,
                           .rtm_type = RTN_UNICAST};
  if (to->prefix)
    add(&m, RTA_DST, to->bytes, family_size(to->family));
  if (gateway)
    add(&m, RTA_GATEWAY, gateway->bytes, family_size(gateway->family));
  if (index)
    add(&m, RTA_OIF, &index, sizeof index);
  return ask(&m);
}

int net_local_set(const struct net_address *to, const struct net_address *source) {
  unsigned lo = if_nametoindex("lo");
  struct message m = start(source ? RTM_NEWROUTE : RTM_DELROUTE, source ? NLM_F_CREATE | NLM_F_REPLACE : 0, sizeof m.route);
  m.route = (struct rtmsg){.rtm_family = (uint8_t)to->family,
                           .rtm_dst_len = (uint8_t)to->prefix,
                           .rtm_table = RT_TABLE_LOCAL,
                           .rtm_protocol = source ? RTPROT_BOOT : RTPROT_UNSPEC,
                           .rtm_scope = source ? RT_SCOPE_HOST : RT_SCOPE_NOWHERE,
                           .rtm_type = RTN_LOCAL};
  add(&m, RTA_DST, to->bytes, family_size(to->family));
  add(&m, RTA_OIF, &lo, sizeof lo);
  if (source)
    add(&m, RTA_PREFSRC, source->bytes, family_size(source->family));
  return ask(&m);
}
