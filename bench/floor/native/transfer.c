// Moves a file through a virtio-serial port, with nothing else at either end.
//
// transfer serve PORT FILE         in the guest: receives FILE, or sends and removes it, as the host asks by that port
// transfer give SOCKET BYTES       on the host: sends that many bytes; the guest writes them to its file
// transfer take SOCKET             on the host: receives the guest's file
//
// The host's ends print bytes and microseconds. A request is a letter and a u64; the guest answers each with a u64.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "port.h"

struct request { uint64_t letter, bytes; };

static char buffer[256 * 1024];

static void fail(const char *what) {
  fprintf(stderr, "transfer: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static void put(int fd, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t done = write(fd, at, length);
    if (done <= 0) fail("write");
    at += done;
    length -= done;
  }
}

// A port reads as ended until the guest knows that the host has opened it, which the first bytes may precede.
static ssize_t read_some(int fd, void *bytes, size_t length, const char *what) {
  for (int tries = 0; tries < 5000; tries++) {
    ssize_t got = read(fd, bytes, length);
    if (got < 0) fail(what);
    if (got > 0) return got;
    usleep(1000);
  }
  errno = ETIMEDOUT;
  fail(what);
  return 0;
}

// 0 when the other end is not open.
static int get(int fd, void *bytes, size_t length) {
  ssize_t have = read(fd, bytes, length);
  if (have < 0) fail("read");
  if (have == 0) return 0;
  while ((size_t)have < length) have += read_some(fd, (char *)bytes + have, length - have, "read");
  return 1;
}

static void receive(int from, int to, uint64_t bytes) {
  while (bytes > 0) {
    ssize_t got = read_some(from, buffer, bytes < sizeof buffer ? bytes : sizeof buffer, "the transfer was cut off");
    if (to >= 0) put(to, buffer, got);
    bytes -= got;
  }
}

static void serve(const char *name, const char *path) {
  int port = open_port(name);
  if (port < 0) fail(name);
  for (;;) {
    struct request request;
    if (!get(port, &request, sizeof request)) {
      // No host has the port open.
      usleep(20000);
      continue;
    }
    if (request.letter == 'g') {
      int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
      if (file < 0) fail(path);
      receive(port, file, request.bytes);
      if (close(file) != 0) fail(path);
      put(port, &request.bytes, sizeof request.bytes);
    } else {
      int file = open(path, O_RDONLY);
      struct stat found;
      if (file < 0 || fstat(file, &found) != 0) fail(path);
      uint64_t left = found.st_size;
      put(port, &left, sizeof left);
      while (left > 0) {
        ssize_t got = read(file, buffer, sizeof buffer);
        if (got <= 0) fail(path);
        put(port, buffer, got);
        left -= got;
      }
      close(file);
      // The next one is a new file: ext4 flushes one that replaces content.
      unlink(path);
    }
  }
}

static int host_end(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) fail(path);
  strcpy(address.sun_path, path);
  int line = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(line, (struct sockaddr *)&address, sizeof address) != 0) fail(path);
  return line;
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "serve") == 0) serve(argv[2], argv[3]);
  if (argc < 3) return 2;
  int line = host_end(argv[2]);
  struct request request = {argv[1][0], argc > 3 ? strtoull(argv[3], NULL, 10) : 0};
  uint64_t bytes = 0;
  double since = now();
  put(line, &request, sizeof request);
  if (request.letter == 'g') {
    for (size_t i = 0; i < sizeof buffer; i++) buffer[i] = rand();
    for (uint64_t left = request.bytes; left > 0;) {
      size_t length = left < sizeof buffer ? left : sizeof buffer;
      put(line, buffer, length);
      left -= length;
    }
    if (!get(line, &bytes, sizeof bytes)) fail("the guest has closed the port");
  } else {
    if (!get(line, &bytes, sizeof bytes)) fail("the guest has closed the port");
    receive(line, -1, bytes);
  }
  printf("%lu %.0f\n", bytes, now() - since);
  return 0;
}
