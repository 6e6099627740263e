// Prints the files that the four requests of ARCHITECTURE.md enter, in order. `--fake`: create and exec only, without a
// machine.
import { requestNames, traceRequests } from "./trace-requests.ts";

const fake = process.argv.includes("--fake");
const traces = await traceRequests(
  fake ? ["create", "exec"] : requestNames,
  fake ? { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" } : {},
);
for (const [name, entries] of traces) {
  process.stdout.write(`\n${name}\n`);
  for (const { file, name: entered, by } of entries) {
    process.stdout.write(`  ${by === "loop" ? "~" : " "} ${file}  ${entered}\n`);
  }
}
