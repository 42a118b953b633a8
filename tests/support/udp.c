/* udp serve PORT WORD: answers every datagram with WORD. udp ask ADDRESS PORT: prints the answer; 1 when there is none within a second. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  char text[256];
  struct sockaddr_in place = {.sin_family = AF_INET}, peer;
  socklen_t size = sizeof peer;
  int fd = socket(AF_INET, SOCK_DGRAM, 0);
  if (argc != 4 || fd < 0)
    return 2;
  if (strcmp(argv[1], "serve") == 0) {
    place.sin_port = htons((unsigned short)atoi(argv[2]));
    if (bind(fd, (struct sockaddr *)&place, sizeof place) < 0)
      return 2;
    for (;; size = sizeof peer)
      if (recvfrom(fd, text, sizeof text, 0, (struct sockaddr *)&peer, &size) >= 0)
        sendto(fd, argv[3], strlen(argv[3]), 0, (struct sockaddr *)&peer, size);
  }
  struct timeval second = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
  place.sin_port = htons((unsigned short)atoi(argv[3]));
  inet_pton(AF_INET, argv[2], &place.sin_addr);
  if (connect(fd, (struct sockaddr *)&place, sizeof place) < 0 || send(fd, "?", 1, 0) < 0)
    return 1;
  ssize_t n = recv(fd, text, sizeof text, 0);
  if (n < 0)
    return 1;
  printf("%.*s\n", (int)n, text);
  return 0;
}
