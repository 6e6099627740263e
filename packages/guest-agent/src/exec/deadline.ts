/** The longest delay of a Node timer. */
const maxTimerMs = 2 ** 31 - 1;

/** Runs `action` after a delay of any length, unless disposed before. */
export class Deadline implements Disposable {
  #timer: NodeJS.Timeout | undefined;

  constructor(milliseconds: number, action: () => void) {
    this.#wait(milliseconds, action);
  }

  [Symbol.dispose](): void {
    clearTimeout(this.#timer);
  }

  #wait(milliseconds: number, action: () => void): void {
    if (milliseconds > maxTimerMs)
      this.#timer = setTimeout(() => this.#wait(milliseconds - maxTimerMs, action), maxTimerMs);
    else this.#timer = setTimeout(action, milliseconds);
  }
}

/** The deadline of a timeout; a timeout of 0 sets none. */
export function deadlineOf(timeoutMs: number, action: () => void): Disposable | undefined {
  return timeoutMs === 0 ? undefined : new Deadline(timeoutMs, action);
}
