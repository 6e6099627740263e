// Writes a byte to standard output every PERIOD microseconds until it is killed. A reader that timestamps the bytes
// sees every pause of the machine. Usage: tick PERIOD
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  struct timespec period = {.tv_sec = 0, .tv_nsec = atol(argv[1]) * 1000};
  while (write(1, ".", 1) == 1) nanosleep(&period, NULL);
  return 1;
}
