// Moves the memory that a machine has changed between its process and a file. Reads commands, a line each, from standard
// input and answers each with lines on standard output:
//
//   capture PID START END FILE   "copied BYTES" when the machine may go on, "stored BYTES" when the file is on the disk
//   apply PID START FILE         "applied BYTES"
//
// START and END are decimal addresses in the machine's process. The file: u64 number of ranges, for each u64 offset and
// u64 length, then their contents.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, MOST = 1 << 20, VECTOR = 1024 };

struct range { uint64_t start, length; };
static struct range ranges[MOST];
static uint64_t count;

static void fail(const char *what) {
  fprintf(stderr, "memory: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void add(uint64_t start, uint64_t length) {
  if (count > 0 && ranges[count - 1].start + ranges[count - 1].length == start) {
    ranges[count - 1].length += length;
    return;
  }
  if (count == MOST) fail("too many ranges");
  ranges[count++] = (struct range){start, length};
}

// PAGEMAP_SCAN, Linux 6.7: defined here for older headers.
struct region { uint64_t start, end, categories; };
struct scan {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
enum { IS_FILE = 1 << 2, IS_PRESENT = 1 << 3, IS_SWAPPED = 1 << 4 };

static int scan_pages(int pagemap, uint64_t start, uint64_t end) {
  static struct region regions[8192];
  while (start < end) {
    struct scan scan = {
        .size = sizeof scan, .start = start, .end = end, .vec = (uint64_t)regions, .vec_len = 8192,
        .category_inverted = IS_FILE, .category_mask = IS_FILE,
        .category_anyof_mask = IS_PRESENT | IS_SWAPPED, .return_mask = IS_FILE,
    };
    long found = ioctl(pagemap, _IOWR('f', 16, struct scan), &scan);
    if (found < 0) return -1;
    for (long i = 0; i < found; i++) add(regions[i].start, regions[i].end - regions[i].start);
    if (found < 8192) return 0;
    start = regions[found - 1].end;
  }
  return 0;
}

static void read_pagemap(int pagemap, uint64_t start, uint64_t end) {
  static uint64_t words[65536];
  for (uint64_t at = start; at < end;) {
    uint64_t pages = (end - at) / PAGE < 65536 ? (end - at) / PAGE : 65536;
    if (pread(pagemap, words, pages * 8, at / PAGE * 8) != (ssize_t)(pages * 8)) fail("pagemap");
    for (uint64_t i = 0; i < pages; i++, at += PAGE) {
      int file = words[i] >> 61 & 1, swapped = words[i] >> 62 & 1, present = words[i] >> 63;
      if (swapped || (present && !file)) add(at, PAGE);
    }
  }
}

static void move(int out, long pid, uint64_t base, char *bytes) {
  struct iovec remote[VECTOR];
  for (uint64_t first = 0; first < count;) {
    int n = 0;
    uint64_t length = 0;
    for (; n < VECTOR && first + n < count; n++) {
      remote[n] = (struct iovec){(void *)(base + ranges[first + n].start), ranges[first + n].length};
      length += ranges[first + n].length;
    }
    struct iovec local = {bytes, length};
    ssize_t moved = out ? process_vm_writev(pid, &local, 1, remote, n, 0) : process_vm_readv(pid, &local, 1, remote, n, 0);
    // One call moves at most 2 GiB.
    if (moved < 0 || (uint64_t)moved != length) fail("process_vm");
    bytes += length;
    first += n;
  }
}

static void transfer(int fd, char *bytes, uint64_t length, int writing) {
  while (length > 0) {
    ssize_t done = writing ? write(fd, bytes, length) : read(fd, bytes, length);
    if (done <= 0) fail("file");
    bytes += done;
    length -= done;
  }
}

static uint64_t total(void) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < count; i++) sum += ranges[i].length;
  return sum;
}

static char *room(uint64_t bytes) {
  char *got = malloc(bytes + 1);
  if (got == NULL) fail("malloc");
  return got;
}

static void capture(long pid, uint64_t start, uint64_t end, const char *file) {
  char path[64];
  snprintf(path, sizeof path, "/proc/%ld/pagemap", pid);
  int pagemap = open(path, O_RDONLY | O_CLOEXEC);
  if (pagemap < 0) fail(path);
  count = 0;
  if (scan_pages(pagemap, start, end) != 0) {
    count = 0;
    read_pagemap(pagemap, start, end);
  }
  close(pagemap);
  uint64_t bytes = total();
  char *content = room(bytes);
  move(0, pid, 0, content);
  printf("copied %lu\n", bytes);
  fflush(stdout);

  for (uint64_t i = 0; i < count; i++) ranges[i].start -= start;
  int fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (fd < 0) fail(file);
  transfer(fd, (char *)&count, sizeof count, 1);
  transfer(fd, (char *)ranges, count * sizeof ranges[0], 1);
  transfer(fd, content, bytes, 1);
  if (fsync(fd) != 0) fail("fsync");
  close(fd);
  free(content);
  printf("stored %lu\n", bytes);
}

static void apply(long pid, uint64_t start, const char *file) {
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail(file);
  transfer(fd, (char *)&count, sizeof count, 0);
  if (count > MOST) fail("too many ranges");
  transfer(fd, (char *)ranges, count * sizeof ranges[0], 0);
  uint64_t bytes = total();
  char *content = room(bytes);
  transfer(fd, content, bytes, 0);
  close(fd);
  move(1, pid, start, content);
  free(content);
  printf("applied %lu\n", bytes);
}

int main(void) {
  char line[PATH_MAX + 128], file[PATH_MAX];
  while (fgets(line, sizeof line, stdin) != NULL) {
    long pid;
    uint64_t start, end;
    if (sscanf(line, "capture %ld %lu %lu %4095s", &pid, &start, &end, file) == 4) capture(pid, start, end, file);
    else if (sscanf(line, "apply %ld %lu %4095s", &pid, &start, file) == 3) apply(pid, start, file);
    else return 2;
    fflush(stdout);
  }
  return 0;
}
