/** What machines of Firecracker lack beside those of QEMU, for people. */
export const limits: readonly string[] = [
  "a checkpoint ends the connections to commands that run, which go on and can be attached to again",
  "a host whose disk is full gives guests write errors",
  "a snapshot's memory is restored only by the same version of Firecracker on an equal processor",
];
