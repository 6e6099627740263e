import { before, suite, test } from "node:test";
import { assertEntersInOrder, documentedFiles, traceUntilInOrder } from "./architecture.ts";
import type { Entry, RequestName } from "./trace-requests.ts";

// With the fake hypervisor, whose guest agent is a process of this host and is traced as well.
suite("ARCHITECTURE.md, compared with requests to a fake machine", () => {
  const files = {
    create: documentedFiles("create").filter((file) => !file.startsWith("packages/worker/")),
    exec: documentedFiles("exec"),
  };
  let traces: ReadonlyMap<RequestName, readonly Entry[]>;
  before(async () => {
    traces = await traceUntilInOrder(files, { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" });
  });

  test("an exec enters every file of its table, in that order", () => {
    assertEntersInOrder(traces.get("exec") ?? [], files.exec);
  });

  test("a create enters the control plane's files of its table, in that order", () => {
    assertEntersInOrder(traces.get("create") ?? [], files.create);
  });
});
