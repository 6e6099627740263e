import { sessionTests } from "./session-tests.ts";

// Everything but the machine is real.
sessionTests("sessions and files with the fake hypervisor", {
  env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" },
  streamedBytes: 200_000_000,
  growthBytes: 100 * 2 ** 20,
  resultBytes: 300_000_000,
  fileBytes: 300_000_001,
  sandboxes: 20,
});
