// Runs a program by posix_spawn, with its output in a pipe as an agent would have it.
//
// spawn N PROGRAM [ARGUMENT...]           N times, one after another; prints what each took in microseconds
// spawn serve PORT PROGRAM [ARGUMENT...]  once for each byte that comes in by the virtio-serial port with that name, and
//                                         answers with its exit code as a byte; ends with the port
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "port.h"

extern char **environ;

static double now(void) {
  struct timespec at;
  clock_gettime(CLOCK_MONOTONIC, &at);
  return at.tv_sec * 1e6 + at.tv_nsec / 1e3;
}

// The program's exit code, or -1.
static int run(char **argv) {
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return -1;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output[1], 1);
  posix_spawn_file_actions_adddup2(&actions, output[1], 2);
  pid_t child;
  if (posix_spawn(&child, argv[0], &actions, NULL, argv, environ) != 0) return -1;
  close(output[1]);
  char buffer[4096];
  while (read(output[0], buffer, sizeof buffer) > 0) continue;
  int status;
  if (waitpid(child, &status, 0) != child) return -1;
  close(output[0]);
  posix_spawn_file_actions_destroy(&actions);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int serve(const char *name, char **argv) {
  int port = open_port(name);
  if (port < 0) {
    perror(name);
    return 1;
  }
  char request;
  while (read(port, &request, 1) == 1) {
    char answer = (char)run(argv);
    if (write(port, &answer, 1) != 1) return 1;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  if (strcmp(argv[1], "serve") == 0) return argc < 4 ? 2 : serve(argv[2], argv + 3);
  int times = atoi(argv[1]);
  for (int i = 0; i < times; i++) {
    double since = now();
    if (run(argv + 2) != 0) return 1;
    printf("%.1f\n", now() - since);
  }
  return 0;
}
