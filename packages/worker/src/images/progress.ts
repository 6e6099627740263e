export interface BuildEvent {
  /** The step for people, such as "building image default: installing packages". */
  readonly step: string;
  /** Progress of the step from 0 to 100; absent when it is unknown. */
  readonly percent?: number;
}

export type OnBuildProgress = (event: BuildEvent) => void;

export interface BuildOptions {
  /** Called a few times a second during a build, and never when there is nothing to build. */
  readonly onProgress?: OnBuildProgress;
  readonly signal?: AbortSignal;
}

// The interval of reports: often enough to look alive and rare enough for a log.
const intervalMs = 300;

/** Passes on a new step at once, and a new percentage at most a few times a second. */
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

// mmdebstrap installs the essential packages and then the rest. The shares of the two rounds are measured.
const rounds = [
  { from: 0, to: 40 },
  { from: 40, to: 99 },
] as const;

const steps = [
  { pattern: /^Get:\d+ \S+ \S+ (amd64|all) /, step: "fetching packages" },
  { pattern: /^Unpacking /, step: "unpacking packages" },
  { pattern: /^Setting up /, step: "setting up packages" },
];

/**
 * Reads the progress of an image's build from mmdebstrap's verbose output. A round begins when apt announces how many
 * packages it installs. Three lines for each package follow.
 */
export function debianProgress(title: string, listener: OnBuildProgress): (line: string) => void {
  const report = throttled(listener);
  let round = -1;
  let packages = 0;
  let lines = 0;
  return (line) => {
    const announced = Number(/, (\d+) newly installed/.exec(line)?.[1] ?? 0);
    if (announced > 0) {
      round += 1;
      packages = announced;
      lines = 0;
    }
    const step = steps.find(({ pattern }) => pattern.test(line))?.step;
    const range = rounds[round];
    if (range === undefined || step === undefined) return;
    lines += 1;
    // Some packages are unpacked twice.
    const share = Math.min(1, lines / (packages * steps.length));
    report({ step: `${title}: ${step}`, percent: Math.floor(range.from + (range.to - range.from) * share) });
  };
}
