/** The kernel's command line. */
export const bootArguments: readonly string[] = [
  "console=ttyS0",
  "quiet",
  // A panic resets at once, which the hypervisor reports.
  "panic=-1",
  "reboot=t",
];
