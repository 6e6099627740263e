// Opens a virtio-serial port of a guest by QEMU's name for it.
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

// The kernel numbers the ports; a file for each holds QEMU's name.
static int find_port(const char *name) {
  glob_t ports;
  if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &ports) != 0) return -1;
  for (size_t i = 0; i < ports.gl_pathc; i++) {
    char found[64] = "", device[64] = "";
    FILE *file = fopen(ports.gl_pathv[i], "r");
    if (file == NULL) continue;
    if (fscanf(file, "%63s", found) != 1) found[0] = 0;
    fclose(file);
    if (strcmp(found, name) != 0) continue;
    sscanf(ports.gl_pathv[i], "/sys/class/virtio-ports/%50[^/]", found);
    snprintf(device, sizeof device, "/dev/%s", found);
    globfree(&ports);
    return open(device, O_RDWR | O_CLOEXEC);
  }
  globfree(&ports);
  return -1;
}

// A port that was just plugged appears in the guest some time later. Waits for it for up to a minute.
static int open_port(const char *name) {
  int port = find_port(name);
  for (int tries = 0; port < 0 && tries < 600; tries++) {
    usleep(100000);
    port = find_port(name);
  }
  return port;
}
