// Runs a program N times by posix_spawn, one after another, with its output in a pipe as an agent would have it, and
// prints what each took in microseconds. Usage: spawn N PROGRAM [ARGUMENT...]
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  int times = atoi(argv[1]);
  for (int i = 0; i < times; i++) {
    double since = now();
    int output[2];
    if (pipe2(output, O_CLOEXEC) != 0) return 1;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output[1], 1);
    posix_spawn_file_actions_adddup2(&actions, output[1], 2);
    pid_t child;
    if (posix_spawn(&child, argv[2], &actions, NULL, argv + 2, environ) != 0) return 1;
    close(output[1]);
    char buffer[4096];
    while (read(output[0], buffer, sizeof buffer) > 0) continue;
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) return 1;
    close(output[0]);
    posix_spawn_file_actions_destroy(&actions);
    printf("%.1f\n", now() - since);
  }
  return 0;
}
