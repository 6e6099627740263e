// A pool in its own process, for tests that kill it. It claims a network with a policy for each directory argument,
// prints a line for each, and stays. `--stop-at LABEL`: prints a line at that command and stops there;
// `--then-stop-at LABEL`: the same for a command after the claims.
import { parseArgs } from "node:util";
import { failOn } from "#host/run-command.ts";
import { NetworkPool } from "../network-pool.ts";
import { guestMac } from "./frames.ts";

const { values, positionals } = parseArgs({
  options: {
    "stop-at": { type: "string" },
    "then-stop-at": { type: "string" },
    spare: { type: "string", default: "0" },
  },
  allowPositionals: true,
});
// Keeps the process alive.
setInterval(() => undefined, 60_000);
stopAt(values["stop-at"]);
const pool = await NetworkPool.open({
  spare: Number(values.spare),
  log: (...line) => process.stderr.write(`${JSON.stringify(line)}\n`),
});
for (const directory of positionals) {
  const network = await pool.claim(directory);
  network.admit(guestMac);
  await network.setPolicy({ enabled: true, egress: { allow: ["203.0.113.10"] } });
  process.stdout.write(`claimed ${network.slot}\n`);
}
stopAt(values["then-stop-at"]);
// Listens before "ready" is printed, because the signal may follow at once.
const ending = new Promise((resolve) => process.once("SIGTERM", resolve));
process.stdout.write("ready\n");
await ending;
await pool[Symbol.asyncDispose]();
process.exit();

function stopAt(label: string | undefined): void {
  if (label === undefined) return;
  failOn(label, async () => {
    process.stdout.write(`at ${label}\n`);
    await new Promise(() => undefined);
  });
}
