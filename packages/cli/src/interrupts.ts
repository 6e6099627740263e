import { constants } from "node:os";
import { SandboxError } from "@opensandbox/wire/errors.ts";

export type InterruptName = "SIGINT" | "SIGTERM" | "SIGHUP";

/** Signals that ask this process to end. */
export interface Interrupts {
  /** Aborts with `canceled` at the first interrupt that has no handler. */
  readonly signal: AbortSignal;
  /** The latest interrupt. */
  readonly last: InterruptName | undefined;
  /** Sends interrupts to `handle` instead, until it is disposed. */
  take(handle: (name: InterruptName) => void): Disposable;
}

const names: readonly InterruptName[] = ["SIGINT", "SIGTERM", "SIGHUP"];

/** The exit code of a process that a signal ends: 128 plus the signal's number, as in shells. */
export function exitCodeOf(name: InterruptName): number {
  return 128 + constants.signals[name];
}

export function signalNumberOf(name: InterruptName): number {
  return constants.signals[name];
}

/** The third interrupt ends the process at once, without clean-up. */
const maxInterrupts = 3;

export function listenForInterrupts(source: NodeJS.EventEmitter, exit: (code: number) => void): Interrupts {
  const canceled = new AbortController();
  const handlers: ((name: InterruptName) => void)[] = [];
  let count = 0;
  let last: InterruptName | undefined;
  for (const name of names) {
    source.on(name, () => {
      count++;
      last = name;
      if (count >= maxInterrupts) exit(exitCodeOf(name));
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
