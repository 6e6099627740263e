import assert from "node:assert/strict";

/**
 * Lets every later `fetch` of this process wait for its response without a limit, instead of 300 s. Requests of the
 * published client have no limit of their own, and on an emulated KVM host beside other work a create takes longer. The
 * caller bounds its tests.
 */
export async function makeFetchPatient(): Promise<void> {
  // The first fetch makes the dispatcher of Node's own HTTP client, which no public function of Node sets.
  await fetch("data:,");
  const symbol = Symbol.for("undici.globalDispatcher.2");
  const dispatchers = globalThis as unknown as Record<symbol, { readonly constructor: DispatcherClass } | undefined>;
  const Dispatcher = dispatchers[symbol]?.constructor ?? assert.fail("Node's HTTP client has another dispatcher");
  dispatchers[symbol] = new Dispatcher({ headersTimeout: 0, bodyTimeout: 0 });
}

type DispatcherClass = new (options: { headersTimeout: number; bodyTimeout: number }) => {
  readonly constructor: DispatcherClass;
};
