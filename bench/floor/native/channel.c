// One stream of the agent channel, read at the full speed of a native program. Standard input holds the
// encoded request: u32 length and the bytes of a hello frame, then the same of an open frame. Prints bytes and
// microseconds from the open to the end. Usage: channel SOCKET take
//
// The frames are those of packages/wire/src/guest/frame.ts: a 16-byte header (u32 length, u32 stream, u32 epoch, u8
// type, u8 tag, u16 check), little-endian, then the payload.
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HELLO = 1, DATA = 4, END = 5, FAILURE = 6, CREDIT = 8 };
enum { HEADER = 16, WINDOW = 256 * 1024, CHUNK = 32 * 1024 - HEADER };

struct header { uint32_t length, stream, epoch; uint8_t type, tag; uint16_t check; };

static int line;
static uint32_t stream, epoch;

static void fail(const char *what) {
  fprintf(stderr, "channel: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

static void put(const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t done = write(line, at, length);
    if (done <= 0) fail("write");
    at += done;
    length -= done;
  }
}

// Bytes read but not yet parsed.
static uint8_t buffer[4 << 20];
static size_t from, to;

static void get(size_t wanted) {
  if (to - from >= wanted) return;
  memmove(buffer, buffer + from, to - from);
  to -= from;
  from = 0;
  while (to < wanted) {
    ssize_t got = read(line, buffer + to, sizeof buffer - to);
    if (got <= 0) fail("the machine has closed the channel");
    to += got;
  }
}

static struct header next(const uint8_t **payload) {
  get(HEADER);
  struct header header;
  memcpy(&header, buffer + from, HEADER);
  if (header.length > (2 << 20)) fail("no frame");
  get(HEADER + header.length);
  *payload = buffer + from + HEADER;
  from += HEADER + header.length;
  return header;
}

static uint16_t check(const uint8_t *bytes) {
  uint32_t low = 0x5a, high = 0xa5;
  for (int i = 0; i < 14; i++) {
    low = (low + bytes[i]) % 255;
    high = (high + low) % 255;
  }
  return high << 8 | low;
}

static void send_frame(uint8_t type, const void *payload, uint32_t length) {
  static uint8_t frame[HEADER + CHUNK];
  struct header header = {length, stream, epoch, type, 0, 0};
  header.check = check((uint8_t *)&header);
  memcpy(frame, &header, HEADER);
  memcpy(frame + HEADER, payload, length);
  put(frame, HEADER + length);
}

static void frame_from_input(uint8_t *frame, uint32_t *length) {
  if (fread(length, 4, 1, stdin) != 1 || *length > 65536 || fread(frame, *length, 1, stdin) != 1) fail("input");
}

static void greet(void) {
  static uint8_t frame[65536];
  uint32_t length;
  frame_from_input(frame, &length);
  epoch = ((struct header *)frame)->epoch;
  put(frame, length);
  const uint8_t *payload;
  for (;;) {
    struct header header = next(&payload);
    if (header.type == HELLO && header.epoch == epoch) return;
    // An agent that has just noticed the connection announces itself and expects another greeting.
    if (header.type == HELLO && header.epoch == 0) put(frame, length);
  }
}

static uint64_t take(void) {
  uint64_t bytes = 0;
  uint32_t taken = 0;
  const uint8_t *payload;
  for (;;) {
    struct header header = next(&payload);
    if (header.stream != stream || header.epoch != epoch) continue;
    if (header.type == FAILURE) fail("refused");
    if (header.type == END) return bytes;
    if (header.type == DATA) bytes += header.length;
    taken += HEADER + header.length;
    if (taken < WINDOW / 2) continue;
    send_frame(CREDIT, &taken, 4);
    taken = 0;
  }
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(argv[1]) >= sizeof address.sun_path) return 2;
  strcpy(address.sun_path, argv[1]);
  line = socket(AF_UNIX, SOCK_STREAM, 0);
  if (connect(line, (struct sockaddr *)&address, sizeof address) != 0) fail(argv[1]);
  greet();
  static uint8_t open[65536];
  uint32_t length;
  frame_from_input(open, &length);
  stream = ((struct header *)open)->stream;
  double since = now();
  put(open, length);
  uint64_t bytes = take();
  printf("%lu %.0f\n", bytes, now() - since);
  return 0;
}
