export interface BuildEvent {
  /** What is being done, for a person: "building image default: installing packages". */
  readonly step: string;
  /** How far the step named is, 0 to 100, when that is known. */
  readonly percent?: number;
}

export type OnBuildProgress = (event: BuildEvent) => void;

export interface BuildOptions {
  /** Called a few times a second while something is built, never when it is there already. */
  readonly onProgress?: OnBuildProgress;
  readonly signal?: AbortSignal;
}

// Often enough to look alive, rare enough for a log.
const intervalMs = 300;

/** Passes a changed step on at once and a changed percentage at most a few times a second. */
export function throttled(
  listener: OnBuildProgress,
  now: () => number = performance.now.bind(performance),
): OnBuildProgress {
  let last: BuildEvent | undefined;
  let lastAt = Number.NEGATIVE_INFINITY;
  return (event) => {
    if (event.step === last?.step && (event.percent === last.percent || now() - lastAt < intervalMs)) return;
    last = event;
    lastAt = now();
    listener(event);
  };
}

/**
 * Reads the progress of a Debian build out of mmdebstrap's verbose output. Every package is fetched, unpacked and set
 * up once, so the count of packages that apt announces makes these lines a percentage of the whole.
 */
export function debianProgress(title: string, listener: OnBuildProgress): (line: string) => void {
  const steps = [
    { pattern: /^Get:\d+ .+ amd64 |^Get:\d+ .+ all /, step: "fetching packages" },
    { pattern: /^Unpacking /, step: "unpacking packages" },
    { pattern: /^Setting up /, step: "setting up packages" },
  ];
  let packages = 0;
  let done = 0;
  let current = `${title}: reading package lists`;
  const report = throttled(listener);
  return (line) => {
    packages += Number(/, (\d+) newly installed/.exec(line)?.[1] ?? 0);
    const step = steps.find(({ pattern }) => pattern.test(line))?.step;
    if (step !== undefined && packages > 0) {
      done += 1;
      current = `${title}: ${step}`;
    }
    report(done === 0 ? { step: current } : { step: current, percent: percentOf(done, packages * steps.length) });
  };
}

// The count is an estimate (essential packages are unpacked twice), and 100 is said only by the end itself.
function percentOf(done: number, total: number): number {
  return Math.min(99, Math.floor((100 * done) / total));
}
