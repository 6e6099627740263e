import type { SandboxInfo } from "@opensandbox/sdk";
import { defineCommand } from "../../command.ts";
import { one } from "#arguments/inputs.ts";
import { columns } from "#output/table.ts";
import { visibleLine } from "#output/visible-text.ts";

export const get = defineCommand({
  summary: "Show a sandbox, whether it runs or not",
  arguments: { id: one("SANDBOX") },
  examples: [
    { line: "get sb-1a2b3c4d", shows: "all there is to know" },
    { line: "get sb-1a2b3c4d --json | jq -r .status", shows: "one thing of it" },
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
