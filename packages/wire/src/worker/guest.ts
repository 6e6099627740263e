import type { GuestFiles } from "./files.ts";
import type { GuestPorts } from "./ports.ts";
import type { GuestSessions } from "./sessions.ts";

/** The inside of one sandbox. Getting it costs nothing: whether the sandbox runs is looked up by each call. */
export interface Guest {
  readonly sessions: GuestSessions;
  readonly files: GuestFiles;
  readonly ports: GuestPorts;
}
