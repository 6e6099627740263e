import type { SandboxInfo } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { visibleLine } from "#output/visible-text.ts";

export const get = defineCommand({
  summary: "Show the details of a sandbox",
  arguments: { id: one("SANDBOX") },
  examples: [
    { line: "get sb-1a2b3c4d", shows: "show all details" },
    { line: "get sb-1a2b3c4d --json | jq -r .status", shows: "print one detail" },
  ],
  async run({ id }, { client, print, signal }) {
    const { sandboxes } = await client();
    const sandbox = await sandboxes.get(id, signal);
    await print(columns(rowsOf(sandbox)), sandbox);
  },
});

function rowsOf(sandbox: SandboxInfo): string[][] {
  const { idleTimeoutSeconds, metadata } = sandbox;
  const labels = Object.entries(metadata).map(([name, value]) => `${name}=${value}`);
  return [
    ["sandbox", sandbox.id],
    ["alias", sandbox.alias],
    ["status", sandbox.reason === undefined ? sandbox.status : `${sandbox.status}: ${sandbox.reason}`],
    ["image", sandbox.image],
    ["cpus", `${sandbox.vcpus}`],
    ["memory", `${sandbox.memoryMib} MB`],
    ["workspace", `${sandbox.diskMib} MB`],
    ["idle timeout", idleTimeoutSeconds === 0 ? "never" : `${idleTimeoutSeconds} s`],
    ["metadata", labels.join(" ")],
    ["created", sandbox.createdAt],
    ["expires", sandbox.expiresAt ?? ""],
    ["stopped", sandbox.stoppedAt ?? ""],
  ]
    .filter(([, value]) => value !== "")
    .map((row) => row.map(visibleLine));
}
