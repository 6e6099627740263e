import { before, suite, test } from "node:test";
import { assertEntersInOrder, documentedFiles } from "./architecture.ts";
import { type Entry, type RequestName, requestNames, traceRequests } from "./trace-requests.ts";

suite("ARCHITECTURE.md, compared with requests to a real machine", () => {
  let traces: ReadonlyMap<RequestName, readonly Entry[]>;
  before(async () => {
    traces = await traceRequests(requestNames, {});
  });

  for (const request of requestNames) {
    test(`${request} enters every file of its table on this host, in that order`, () => {
      // The agent inside a machine is a bundle and is not traced.
      const files = documentedFiles(request).filter((file) => !file.startsWith("packages/guest-agent/"));
      assertEntersInOrder(traces.get(request) ?? [], files);
    });
  }
});
