/** The end of a KVM host that sent no result of its test runner. */
export interface HostEnd {
  /** One line. */
  readonly message: string;
  /** Linux itself failed, as it does now and then on emulated processors, whatever it runs. */
  readonly isKernelFailure: boolean;
  /** What the console says about it. */
  readonly excerpt: string;
}

/** The first line of a report of Linux about its own failure. */
const failure =
  /^(?:\[ *[\d.]+\] )?((?:BUG|Oops|Kernel panic|Unable to handle|traps: PANIC|PANIC)\b.*|.*: 0000 \[#\d+\].*)$/m;

/** Enough for a report with its stack. The outermost calls of a stack that has overflowed stand at its end. */
const excerptLength = { first: 10_000, last: 8000 };

/** A stall that the kernel reports before it fails may be the cause. */
const maxBefore = 4000;

/** Reads the console of a KVM host that has ended. `stopped` is the reason of the caller to stop it. Pure. */
export function endOfHost(console: string, stopped: string | undefined): HostEnd {
  const found = failure.exec(console);
  if (found !== null) {
    return {
      message: `the kernel of the KVM host has failed: ${found[1]?.trim()}`,
      isKernelFailure: true,
      excerpt: shorten(console.slice(Math.max(0, found.index - maxBefore))),
    };
  }
  const why =
    stopped === undefined
      ? "the KVM host ended without the result of its test runner"
      : `the KVM host was stopped: ${stopped}`;
  return { message: why, isKernelFailure: false, excerpt: console.slice(-4000) };
}

function shorten(report: string): string {
  const { first, last } = excerptLength;
  return report.length <= first + last ? report : `${report.slice(0, first)}\n...\n${report.slice(-last)}`;
}
