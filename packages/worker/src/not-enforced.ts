/** The parts of a network policy that a host without network namespaces does not enforce, for people. */
export const notEnforced = {
  user: [
    "private addresses and this host can be reached",
    "rules for what may be reached (egress) are refused",
    "the network cannot be switched on or off while a sandbox runs",
    "there is no metadata service, no record of refusals and no limit of bandwidth",
  ],
  none: ["everything that this host reaches can be reached", "rules for what may be reached (egress) are refused"],
} as const;
