// The host's share of moving a machine's memory: a file of that size, written or read by one plain program.
//
// disk write FILE BYTES   new content to the disk, until it is flushed
// disk read FILE          into new memory of this process, of the kind that QEMU asks for
//
// Prints microseconds.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { CHUNK = 4 << 20 };

static void fail(const char *what) {
  fprintf(stderr, "disk: %s: %s\n", what, strerror(errno));
  exit(1);
}

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
  int writing = argc == 4 && strcmp(argv[1], "write") == 0;
  if (!writing && (argc != 3 || strcmp(argv[1], "read") != 0)) return 2;
  int file = open(argv[2], writing ? O_RDWR | O_CREAT | O_TRUNC : O_RDONLY, 0600);
  struct stat found;
  if (file < 0 || fstat(file, &found) != 0) fail(argv[2]);
  uint64_t bytes = writing ? strtoull(argv[3], NULL, 10) : (uint64_t)found.st_size;
  char *memory = mmap(NULL, writing ? CHUNK : bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap");
  // A kernel without huge pages refuses this, which makes no difference to the rest.
  if (!writing) (void)madvise(memory, bytes, MADV_HUGEPAGE);
  if (writing)
    for (size_t i = 0; i < CHUNK; i++) memory[i] = rand();
  double since = now();
  for (uint64_t at = 0; at < bytes;) {
    size_t length = bytes - at < CHUNK ? bytes - at : CHUNK;
    ssize_t done = writing ? write(file, memory, length) : read(file, memory + at, length);
    if (done <= 0) fail(argv[2]);
    // Starts the writing: the kernel alone begins when much of the host's memory is dirty.
    if (writing && sync_file_range(file, at, done, SYNC_FILE_RANGE_WRITE) != 0) fail("sync_file_range");
    at += done;
  }
  if (writing && fsync(file) != 0) fail("fsync");
  printf("%.0f\n", now() - since);
  return 0;
}
