/** One measured figure and its promise. */
export interface Figure {
  readonly title: string;
  readonly unit: "ms" | "MB/s" | "MB" | "%" | "x";
  /** Whether a larger value is worse or better. */
  readonly better: "less" | "more";
  /** The floor: the same work without OpenSandbox. Absent: there is nothing to compare with. */
  readonly floor?: string;
  /** Measured for the floor alone: the best that can be reached. */
  readonly floorOnly?: true;
  readonly target?: Target;
}

export interface Target {
  /** The target for the ratio of ours to the floor: a maximum, or a minimum where larger is better. */
  readonly ratio?: number;
  /** In the figure's unit, for a host with KVM. */
  readonly onKvm?: number;
}

/** The first run of a command in a fresh sandbox. */
function first(command: string): Figure {
  return {
    title: `first run of \`${command}\` in a fresh sandbox`,
    unit: "ms",
    better: "less",
    floor: "its second run there",
    target: { ratio: 1.5 },
  };
}

/** Every figure, in the order of the report. */
export const figures = {
  "create-ready": {
    title: "create, ready machine -> first command done",
    unit: "ms",
    better: "less",
    floor: "`cont` of a ready machine -> agent round trip",
    target: { ratio: 3, onKvm: 15 },
  },
  "create-tail": {
    title: "p99 / p50 of create, ready machine",
    unit: "x",
    better: "less",
    floor: "p99 / p50 of the raw ones",
    target: { onKvm: 2 },
  },
  "create-restore": {
    title: "create, no ready machine (memory restore)",
    unit: "ms",
    better: "less",
    floor: "raw restore -> agent round trip",
    target: { ratio: 1.3, onKvm: 60 },
  },
  "create-restore-first": {
    title: "create, memory restore -> first command done",
    unit: "ms",
    better: "less",
    floor: "raw restore -> first command done",
  },
  "first-command": {
    title: "first command after a create by memory restore",
    unit: "ms",
    better: "less",
    floor: "first command over the raw agent channel",
  },
  "first-bash": first("bash -lc true"),
  "first-node": first("node -v"),
  "first-python": first("python3 -c ''"),
  "first-git": first("git status"),
  "restore-ahead": {
    title: "raw restore with the process spawned ahead -> round trip",
    unit: "ms",
    better: "less",
    floor: "what spawning ahead could bring",
    floorOnly: true,
  },
  burst: {
    title: "creates at once, last one ready",
    unit: "ms",
    better: "less",
    floor: "as many raw restores at once",
    target: { ratio: 1.2 },
  },
  "burst-100": {
    title: "each of 100 creates at once",
    unit: "ms",
    better: "less",
  },
  delete: {
    title: "delete",
    unit: "ms",
    better: "less",
    floor: "QEMU killed, its files removed",
  },
  "warm-exec": {
    title: "warm exec `true`",
    unit: "ms",
    better: "less",
    floor: "the same by a native program in the guest, asked over the same channel",
    target: { ratio: 2, onKvm: 5 },
  },
  "native-spawn": {
    title: "`true` by a native program in the guest",
    unit: "ms",
    better: "less",
    floor: "the kernel's share of a warm exec",
    floorOnly: true,
  },
  "agent-exec": {
    title: "`true` over the raw agent channel",
    unit: "ms",
    better: "less",
    floor: "the agent's share of a warm exec",
    floorOnly: true,
  },
  "agent-round-trip": {
    title: "agent round trip",
    unit: "ms",
    better: "less",
    floor: "the channel's share of a warm exec",
    floorOnly: true,
  },
  "exec-stream": {
    title: "output of a command, streamed",
    unit: "MB/s",
    better: "more",
    floor: "the same over the raw agent channel",
  },
  "file-up": {
    title: "file up",
    unit: "MB/s",
    better: "more",
    floor: "the same by a native program at each end of a port",
    target: { ratio: 0.87, onKvm: 300 },
  },
  "file-down": {
    title: "file down",
    unit: "MB/s",
    better: "more",
    floor: "the same by a native program at each end of a port",
    target: { ratio: 0.87, onKvm: 300 },
  },
  "terminal-echo": {
    title: "key to echo in a terminal",
    unit: "ms",
    better: "less",
    floor: "the same over the raw agent channel",
  },
  preview: {
    title: "request to a web server in the guest",
    unit: "ms",
    better: "less",
    floor: "the same over the raw agent channel",
  },
  hibernate: {
    title: "hibernate, 16 MB changed",
    unit: "ms",
    better: "less",
    floor: "freeze, stop, device state and changed pages to the disk",
    target: { ratio: 1.3, onKvm: 60 },
  },
  "hibernate-size": {
    title: "memory and device state that a hibernation writes",
    unit: "MB",
    better: "less",
    floor: "the same of the raw machine",
  },
  wake: {
    title: "wake, 16 MB changed",
    unit: "ms",
    better: "less",
    floor: "raw restore of that",
    target: { ratio: 1.3, onKvm: 60 },
  },
  "checkpoint-pause": {
    title: "checkpoint pause as the guest's output shows it, 16 MB changed",
    unit: "ms",
    better: "less",
    floor: "the same of a raw machine",
    target: { ratio: 1.2, onKvm: 30 },
  },
  "checkpoint-pause-512m": {
    title: "the same, 512 MB machine",
    unit: "ms",
    better: "less",
    floor: "the same of a raw machine",
    target: { ratio: 1.2, onKvm: 30 },
  },
  "checkpoint-pause-4g": {
    title: "the same, 4 GB machine",
    unit: "ms",
    better: "less",
    floor: "the same of a raw machine",
    target: { ratio: 1.2, onKvm: 30 },
  },
  checkpoint: {
    title: "checkpoint, until it is ready",
    unit: "ms",
    better: "less",
    floor: "raw capture to the disk",
  },
  fork: {
    title: "fork -> first command done",
    unit: "ms",
    better: "less",
    floor: "raw restore of a checkpoint -> first command done",
    target: { ratio: 1.3, onKvm: 80 },
  },
  "hibernate-4g": {
    title: "hibernate, 4 GB machine with 3 GB changed",
    unit: "ms",
    better: "less",
    floor: "a file of that size written to the disk by one program",
    target: { ratio: 1.3 },
  },
  "wake-4g": {
    title: "wake, 4 GB machine with 3 GB changed",
    unit: "ms",
    better: "less",
    floor: "that file read into the memory of one program",
  },
  "source-write": {
    title: "4 MB written and synced right after a checkpoint",
    unit: "ms",
    better: "less",
    floor: "the same right before it",
  },
  "fork-write": {
    title: "a small file written, synced and read in a fresh fork",
    unit: "ms",
    better: "less",
    floor: "the same in the source",
  },
  "checkpoint-after-wake": {
    title: "checkpoint right after a wake, until it is ready",
    unit: "ms",
    better: "less",
    floor: "the same before the sandbox slept",
  },
  "tti-sequential": {
    title: "TTI (create -> `node -v`), one after another",
    unit: "ms",
    better: "less",
    floor: "`cont` of a ready machine -> `node -v`",
  },
  "tti-staggered": {
    title: "TTI, one every 200 ms",
    unit: "ms",
    better: "less",
  },
  "tti-burst": {
    title: "TTI, all at once",
    unit: "ms",
    better: "less",
  },
  "list-10k": {
    title: "list of 100 among 10 000 sandboxes",
    unit: "ms",
    better: "less",
  },
  "memory-idle": {
    title: "memory of an idle sandbox (PSS of its process)",
    unit: "MB",
    better: "less",
    floor: "the same of a raw machine",
  },
  "memory-beyond": {
    title: "memory of an idle sandbox beyond its guest's dirty pages",
    unit: "MB",
    better: "less",
    floor: "the same of a raw machine",
    target: { ratio: 1.2, onKvm: 30 },
  },
  "memory-private": {
    title: "private dirty memory of an idle sandbox",
    unit: "MB",
    better: "less",
    floor: "the same of a raw machine",
  },
  "memory-busy": {
    title: "memory of a busy sandbox (PSS; 64 MB written, commands run)",
    unit: "MB",
    better: "less",
    floor: "the same of a raw machine",
  },
  "memory-server": {
    title: "memory of the server for each sandbox",
    unit: "MB",
    better: "less",
  },
  "disk-sandbox": {
    title: "disk of a sandbox that is not shared",
    unit: "MB",
    better: "less",
    floor: "the same of a raw machine",
  },
  "cpu-guest-idle": {
    title: "processor time of an idle sandbox",
    unit: "%",
    better: "less",
    floor: "the same of a raw machine",
  },
  "cpu-idle-0": { title: "processor time of the server with no sandbox", unit: "%", better: "less" },
  "cpu-idle-10": { title: "processor time of the server with 10 idle sandboxes", unit: "%", better: "less" },
  "cpu-idle-100": { title: "processor time of the server with 100 idle sandboxes (fake)", unit: "%", better: "less" },
  "loop-delay": { title: "p99 of the server's event-loop delay under load", unit: "ms", better: "less" },
} as const satisfies Readonly<Record<string, Figure>>;

export type FigureName = keyof typeof figures;

export function figureOf(name: FigureName): Figure {
  return figures[name];
}
