import { sessionTests } from "./session-tests.ts";

// In one real machine. More goes through it with OPENSANDBOX_TEST_STREAM_MB, and others stand beside it with
// OPENSANDBOX_TEST_SANDBOXES.
const streamedMb = Number(process.env["OPENSANDBOX_TEST_STREAM_MB"] ?? 40);
const sandboxes = Number(process.env["OPENSANDBOX_TEST_SANDBOXES"] ?? 1);

sessionTests("sessions and files in a machine", {
  env: { OPENSANDBOX_READY_MACHINES: "0", OPENSANDBOX_DEFAULT_SANDBOX_MEMORY_MB: "512" },
  streamedBytes: streamedMb * 1_000_000,
  growthBytes: 100 * 2 ** 20,
  resultBytes: 5_000_000,
  fileBytes: 50_000_000,
  sandboxes,
});
