import { constants } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export type InterruptName = "SIGINT" | "SIGTERM" | "SIGHUP";

/** What the user, or the system, sends to make this process end. */
export interface Interrupts {
  /** Aborted, with `canceled`, by the first one that nobody has taken. */
  readonly signal: AbortSignal;
  /** The last one that came. */
  readonly last: InterruptName | undefined;
  /** Until it is disposed, interrupts go to `handle` instead. */
  take(handle: (name: InterruptName) => void): Disposable;
}

const names: readonly InterruptName[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** 128 + n, as shells have it. */
export function exitCodeOf(name: InterruptName): number {
  return 128 + constants.signals[name];
}

export function signalNumberOf(name: InterruptName): number {
  return constants.signals[name];
}

/** Whoever insists a third time is obeyed at once, whatever is still under way. */
const insisted = 3;

export function listenForInterrupts(source: NodeJS.EventEmitter, exit: (code: number) => void): Interrupts {
  const canceled = new AbortController();
  const handlers: ((name: InterruptName) => void)[] = [];
  let count = 0;
  let last: InterruptName | undefined;
  for (const name of names) {
    source.on(name, () => {
      count++;
      last = name;
      if (count >= insisted) exit(exitCodeOf(name));
      const handle = handlers.at(-1);
      if (handle === undefined) canceled.abort(new SandboxError("canceled", "interrupted"));
      else handle(name);
    });
  }
  return {
    signal: canceled.signal,
    get last() {
      return last;
    },
    take(handle) {
      handlers.push(handle);
      return { [Symbol.dispose]: () => handlers.splice(handlers.indexOf(handle), 1) };
    },
  };
}
