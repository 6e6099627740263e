import { wait } from "./wait.ts";

/** So often a call is made in all. */
const maxAttempts = 4;
const firstDelayMs = 200;
const maxDelayMs = 10_000;

/** Replies of servers, and of proxies before them, that say: later. */
const transient = new Set([429, 502, 503, 504]);

/**
 * Makes a call again that failed of something that passes, a little later each time. Only for calls that can be made
 * twice: those that read, and those with an idempotency key. Any other reply, and the last one, is the caller's.
 */
export async function retrying(
  call: () => Promise<Response>,
  isUnreachable: (error: unknown) => boolean,
  signal: AbortSignal | undefined,
): Promise<Response> {
  for (let attempt = 1; ; attempt += 1) {
    const isLast = attempt === maxAttempts;
    let asked: number | undefined;
    try {
      const response = await call();
      if (isLast || !transient.has(response.status)) return response;
      asked = retryAfterMs(response.headers.get("retry-after"));
      await response.body?.cancel();
    } catch (error) {
      if (isLast || signal?.aborted === true || !isUnreachable(error)) throw error;
    }
    // Of many that failed at the same moment not all are to come back at the same moment.
    const delayMs = firstDelayMs * 2 ** (attempt - 1) * (1 + Math.random());
    await wait(Math.min(asked ?? delayMs, maxDelayMs), signal);
  }
}

/** Of the header `Retry-After` in seconds; its other form, a date, is not what our servers say. */
function retryAfterMs(header: string | null): number | undefined {
  return header !== null && /^\d+$/.test(header) ? Number(header) * 1000 : undefined;
}
