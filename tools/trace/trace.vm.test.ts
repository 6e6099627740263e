import { before, suite, test } from "node:test";
import { assertEntersInOrder, documentedFiles, traceUntilInOrder } from "./architecture.ts";
import { type Entry, type RequestName, requestNames } from "./trace-requests.ts";

suite("ARCHITECTURE.md, compared with requests to a real machine", () => {
  // The agent inside a machine is a bundle and is not traced.
  const filesOf = (request: RequestName): readonly string[] =>
    documentedFiles(request).filter((file) => !file.startsWith("packages/guest-agent/"));
  let traces: ReadonlyMap<RequestName, readonly Entry[]>;
  before(async () => {
    traces = await traceUntilInOrder(
      Object.fromEntries(requestNames.map((request) => [request, filesOf(request)])),
      {},
    );
  });

  for (const request of requestNames) {
    test(`${request} enters every file of its table on this host, in that order`, () => {
      assertEntersInOrder(traces.get(request) ?? [], filesOf(request));
    });
  }
});
