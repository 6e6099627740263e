import { visibleLine } from "./visible-text.ts";
import type { Output } from "./write-to.ts";

interface BuildStep {
  readonly step: string;
  /** Of this step. */
  readonly percent?: number;
}

/** Progress of a long operation, for people. Disposing it removes its line from a terminal. */
export interface Progress extends Disposable {
  report(step: string): void;
  /** Reports a step of a build. */
  reportStep(step: BuildStep): void;
  /** Hides progress until the next report. */
  pause(): void;
}

// Short operations show no progress. A terminal's line is redrawn at the same interval.
const redrawMs = 1000;
const lineEveryMs = 5000;
// A long step repeats its line, to show that it still runs.
const repeatEveryMs = 30_000;

/** Shows one changing line on a terminal, and occasional lines elsewhere. */
export function startProgress(stream: Output, now: () => number = performance.now.bind(performance)): Progress {
  const show = stream.isTTY === true ? onTerminal(stream) : asLines(stream, now);
  let step: string | undefined;
  let since = 0;
  let timer: NodeJS.Timeout | undefined;
  const tick = (): void => {
    if (step !== undefined) show.step(step, now() - since);
  };
  const pause = (): void => {
    clearInterval(timer);
    timer = undefined;
    step = undefined;
    show.clear();
  };
  const report = (next: string): void => {
    if (step === undefined) since = now();
    step = next;
    timer ??= setInterval(tick, redrawMs);
    if (now() - since >= redrawMs) tick();
  };
  return {
    report,
    reportStep: ({ step: name, percent }) =>
      report(percent === undefined ? name : `${name} (${Math.round(percent)} %)`),
    pause,
    [Symbol.dispose]: pause,
  };
}

interface Show {
  step(step: string, elapsedMs: number): void;
  clear(): void;
}

function onTerminal(stream: Output): Show {
  let drawn = false;
  return {
    step(step, elapsedMs) {
      // Some terminals report a width of 0.
      const room = (stream.columns || 80) - 1;
      const time = ` (${seconds(elapsedMs)})`;
      const text = oneLine(step);
      const shown = text.length + time.length > room ? `${text.slice(0, Math.max(0, room - time.length - 1))}…` : text;
      stream.write(`\r\u001B[2K${shown}${time}`);
      drawn = true;
    },
    clear() {
      if (drawn) stream.write("\r\u001B[2K");
      drawn = false;
    },
  };
}

function asLines(stream: Output, now: () => number): Show {
  let last = { step: "", at: Number.NEGATIVE_INFINITY };
  return {
    step(step, elapsedMs) {
      const time = now();
      const wait = step === last.step ? repeatEveryMs : lineEveryMs;
      if (time - last.at < wait) return;
      last = { step, at: time };
      stream.write(`osb: ${oneLine(step)} (${seconds(elapsedMs)})\n`);
    },
    clear() {
      // Lines in a log stay.
    },
  };
}

function seconds(milliseconds: number): string {
  return `${Math.round(milliseconds / 1000)} s`;
}

function oneLine(text: string): string {
  return visibleLine(text.replaceAll(/\s+/g, " "));
}
