/** How the QEMU of a KVM host ended. */
export interface EndedQemu {
  /** Null if a signal ended it. */
  readonly code: number | null;
  readonly signal: string | null;
  /** What it wrote to its standard error. */
  readonly stderr: string;
  /** Its log of processor resets (`-d cpu_reset`). */
  readonly log: string;
  /** Why the caller stopped it; undefined if it ended by itself. */
  readonly stopped?: string | undefined;
}

/** The end of a KVM host that sent no result of its test runner. */
export interface HostEnd {
  /** One line. */
  readonly message: string;
  /**
   * `kernel`: Linux reported a failure of its own. `qemu`: QEMU ended by itself. Both happen now and then on emulated
   * processors, whatever they run, so the tests may run again. `stopped`: the caller ended the host.
   */
  readonly cause: "kernel" | "qemu" | "stopped";
  /** What the console and QEMU say about it. */
  readonly excerpt: string;
}

/** The first line of a report of Linux about its own failure. */
const failure =
  /^(?:\[ *[\d.]+\] )?((?:BUG|Oops|Kernel panic|Unable to handle|traps: PANIC|PANIC)\b.*|.*: 0000 \[#\d+\].*)$/m;

/** Enough for a report with its stack. The outermost calls of a stack that has overflowed stand at its end. */
const excerptLength = { first: 10_000, last: 8000 };

/** A stall that the kernel reports before it fails may be the cause. */
const maxBefore = 4000;

/** Enough for the registers of two processors. */
const maxOfQemu = 4000;

/** Reads what a KVM host left behind: the `console` of its kernel, and the end of its QEMU. Pure. */
export function endOfHost(console: string, qemu: EndedQemu): HostEnd {
  const found = failure.exec(console);
  const report =
    found === null ? console.slice(-maxBefore) : shorten(console.slice(Math.max(0, found.index - maxBefore)));
  const stderr = part("QEMU's standard error", qemu.stderr);
  // A processor is reset when it starts too, so only a triple fault makes the log worth reading.
  const log = hasTripleFault(qemu) ? part("QEMU's log", qemu.log) : "";
  return {
    message: found === null ? messageOf(qemu) : `the kernel of the KVM host has failed: ${found[1]?.trim()}`,
    cause: found !== null ? "kernel" : qemu.stopped === undefined ? "qemu" : "stopped",
    excerpt: `${report}${stderr}${log}`,
  };
}

function messageOf(qemu: EndedQemu): string {
  if (qemu.stopped !== undefined) return `the KVM host was stopped: ${qemu.stopped}`;
  const how = qemu.signal === null ? `with exit code ${qemu.code}` : `by ${qemu.signal}`;
  const cause = hasTripleFault(qemu) ? " after a triple fault" : "";
  const said = qemu.stderr.trim().split("\n").at(-1) ?? "";
  return `the KVM host ended without the result of its test runner: QEMU ended ${how}${cause}${said === "" ? "" : `: ${said}`}`;
}

/** The processor found no handler for a fault, nor for that of the handler; Linux reports nothing then. */
function hasTripleFault({ log }: EndedQemu): boolean {
  return log.includes("Triple fault");
}

function part(title: string, text: string): string {
  return text.trim() === "" ? "" : `\n${title}:\n${text.slice(-maxOfQemu)}`;
}

function shorten(report: string): string {
  const { first, last } = excerptLength;
  return report.length <= first + last ? report : `${report.slice(0, first)}\n...\n${report.slice(-last)}`;
}
