/** The kernel's command line. */
export const bootArguments: readonly string[] = [
  "console=ttyS0",
  "quiet",
  // A panic resets at once, which the hypervisor reports.
  "panic=-1",
  "reboot=t",
  // Hotplugged memory holds only movable pages, so that it can be taken back.
  "memhp_default_state=online_movable",
  // A machine whose memory may reach above 4 GiB gets 64 MiB of bounce buffers, which no virtio device needs.
  "swiotlb=noforce",
];
