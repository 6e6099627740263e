import type { TestEvent } from "node:test/reporters";
import type { FinishedTest } from "./own-host.ts";

/** Prints each finished test as a line of JSON, for the process that started this one. */
export default async function* report(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const names: string[] = [];
  for await (const { type, data } of events) {
    if (type === "test:start") names[data.nesting] = data.name;
    if (type !== "test:pass" && type !== "test:fail") continue;
    const error = type === "test:fail" ? describe(data.details.error) : undefined;
    // The result of a suite follows from its tests.
    if (data.details.type === "suite") continue;
    const finished: FinishedTest = {
      names: [...names.slice(0, data.nesting), data.name],
      milliseconds: Math.round(data.details.duration_ms),
      ...(error === undefined ? {} : { error }),
      ...(typeof data.skip === "string" ? { skip: data.skip } : {}),
    };
    yield `${JSON.stringify(finished)}\n`;
  }
}

function describe(error: Error): string {
  const { cause } = error;
  return cause instanceof Error ? (cause.stack ?? cause.message) : (error.stack ?? error.message);
}
