// Takes memory and fills it with content that no two pages share, then keeps it. Usage: fill MEGABYTES
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
  size_t words = argc == 2 ? strtoull(argv[1], NULL, 10) * 1000000 / 8 : 0;
  uint64_t *memory = malloc(words * 8);
  if (words == 0 || memory == NULL) return 2;
  uint64_t state = 88172645463325252u;
  for (size_t at = 0; at < words; at++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    memory[at] = state;
  }
  puts("filled");
  fflush(stdout);
  for (;;) pause();
}
