import { constants } from "node:os";

/** The names of RFC 4254 without `SIG`, and those that OpenSSH adds. */
const names = [
  "ABRT",
  "ALRM",
  "FPE",
  "HUP",
  "ILL",
  "INT",
  "KILL",
  "PIPE",
  "QUIT",
  "SEGV",
  "TERM",
  "USR1",
  "USR2",
] as const;

/** Undefined for a name that SSH does not have. */
export function signalNumber(name: string): number | undefined {
  const known = names.find((each) => each === name);
  return known === undefined ? undefined : constants.signals[`SIG${known}`];
}

/** Undefined for a signal that SSH has no name for. */
export function signalName(number: number): string | undefined {
  return names.find((name) => constants.signals[`SIG${name}`] === number);
}
