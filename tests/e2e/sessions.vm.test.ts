import { sessionTests } from "./session-tests.ts";

// In one real machine. OPENSANDBOX_TEST_STREAM_MB raises the amount of output, and OPENSANDBOX_TEST_SANDBOXES the
// number of sandboxes.
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
