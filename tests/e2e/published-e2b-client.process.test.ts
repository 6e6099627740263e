import { e2bClientTests } from "./e2b-client-tests.ts";
import { spawnServer } from "./spawn-server.ts";

// The published client of E2B, a server, a worker and a real guest agent; only the machine is a process of this host.
e2bClientTests(
  "the published client of E2B, with a fake machine",
  () => spawnServer({ env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } }),
  { home: "/home/sandbox", isReal: false },
);
