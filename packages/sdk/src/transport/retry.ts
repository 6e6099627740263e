import { wait } from "./wait.ts";

/** Including the first one. */
const maxAttempts = 4;
const firstDelayMs = 200;
const maxDelayMs = 10_000;

/** Statuses by which servers and proxies ask a client to come back later. */
const transient = new Set([429, 502, 503, 504]);

/**
 * Retries a call after transient failures, with exponential back-off. For calls that may run twice: reads, and requests
 * with an idempotency key. Returns the first reply that is not transient, or the last one.
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
    // The jitter spreads clients that failed at the same moment.
    const delayMs = firstDelayMs * 2 ** (attempt - 1) * (1 + Math.random());
    await wait(Math.min(asked ?? delayMs, maxDelayMs), signal);
  }
}

/** `Retry-After` in seconds. Servers of OpenSandbox never send its other form, a date. */
function retryAfterMs(header: string | null): number | undefined {
  return header !== null && /^\d+$/.test(header) ? Number(header) * 1000 : undefined;
}
