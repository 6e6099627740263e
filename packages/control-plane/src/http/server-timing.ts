import type { Span } from "@opensandbox/wire/worker/worker.ts";

/** The spans as the value of a `Server-Timing` header. */
export function serverTiming(spans: readonly Span[]): string {
  return spans
    .map(({ name, milliseconds }) => `${name.replaceAll(/[^\w-]+/g, "-")};dur=${milliseconds.toFixed(1)}`)
    .join(", ");
}
