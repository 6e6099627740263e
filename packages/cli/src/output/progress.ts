import { visibleLine } from "./visible-text.ts";
import type { Output } from "./write-to.ts";

/** Tells people what goes on while they wait. Disposing it leaves no trace on a terminal. */
export interface Progress extends Disposable {
  report(step: string): void;
  /** Nothing is told until the next report. */
  pause(): void;
}

// What is over within this was no wait; a terminal's line is drawn anew as often.
const silentMs = 1000;
const lineEveryMs = 5000;
// A step that takes long says now and then that it goes on.
const repeatEveryMs = 30_000;

/** On a terminal one line that changes; elsewhere a line now and then. */
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
  return {
    report(next) {
      if (step === undefined) since = now();
      step = next;
      timer ??= setInterval(tick, silentMs);
      if (now() - since >= silentMs) tick();
    },
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
      // Some terminals do not know how wide they are.
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
      // Lines stay.
    },
  };
}

function seconds(milliseconds: number): string {
  return `${Math.round(milliseconds / 1000)} s`;
}

function oneLine(text: string): string {
  return visibleLine(text.replaceAll(/\s+/g, " "));
}
