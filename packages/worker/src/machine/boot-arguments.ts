/** The kernel's command line. */
export const bootArguments: readonly string[] = [
  "console=ttyS0",
  "quiet",
  // A panic resets at once, which the hypervisor reports.
  "panic=-1",
  "reboot=t",
  // Memory that is added is for commands, so that it can be taken back.
  "memhp_default_state=online_movable",
  // That memory may be added above 4 GiB makes the kernel set 64 MiB aside for devices that cannot reach it: there are none.
  "swiotlb=noforce",
];
