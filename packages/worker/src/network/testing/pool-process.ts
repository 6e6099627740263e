// A pool in a process of its own, for tests that kill it: claims a network for each directory that it is given, with a
// policy, says so, and stays. `--stop-at LABEL`: says so when it comes to that command, and goes no further;
// `--then-stop-at LABEL`: when it comes to it after all that.
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
// Nothing else keeps a process that waits for ever.
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
// Whoever hears that it is ready may end it at once.
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
