/* Links, addresses and routes through rtnetlink. All functions return -1 with errno. */
#pragma once

#include "wire/util.h"

struct net_address {
  int family; /* AF_INET, AF_INET6 */
  uint8_t bytes[16];
  unsigned prefix;
};

bool net_parse(const char *text, struct net_address *out); /* "address[/prefix]" */
int net_link_set(unsigned index, const char *name, uint32_t mtu, bool up); /* name NULL, mtu 0 = leave */
int net_link_down(unsigned index);
int net_address_add(unsigned index, const struct net_address *address);
int net_addresses_flush(unsigned index);
/* gateway NULL = directly reachable; index 0 = any device; prefix length 0 = default. */
int net_route_set(const struct net_address *to, const struct net_address *gateway, unsigned index);
/* Make an address lead to this machine itself; connections to it come from source. NULL = no longer. */
int net_local_set(const struct net_address *to, const struct net_address *source);
