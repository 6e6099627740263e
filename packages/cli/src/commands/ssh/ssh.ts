import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { one, optional, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../command.ts";
import { runSsh } from "./run-ssh.ts";

export const ssh = defineCommand({
  summary: "Open a shell in a sandbox over SSH, or run a command there",
  description:
    "Uses the program ssh, and the server's SSH gateway (OPENSANDBOX_SSH_PORT), whose host key it takes from the API. The " +
    "public key must have been added with 'ssh-key add'. The connection wakes a hibernated sandbox. COMMAND is a command " +
    "line of the sandbox's shell. scp, sftp, rsync and editors connect the same way: to SANDBOX@HOST at the gateway's port.",
  arguments: { id: one("SANDBOX"), line: optional("COMMAND") },
  options: { identity: text("FILE", "the private key (default: those of ssh)", "i") },
  examples: [
    { line: "ssh sb-1a2b3c4d", shows: "open a shell" },
    { line: "ssh sb-1a2b3c4d 'tail -f log'", shows: "run a command" },
  ],
  async run({ id, line, identity }, { client, host, signal }) {
    const connected = await client();
    await connected.sandboxes.get(id, signal);
    const gateway = await connected.ssh.gateway(signal);
    if (gateway === undefined) {
      throw new SandboxError("not_supported", "the server has no SSH gateway: set OPENSANDBOX_SSH_PORT where it runs");
    }
    const directory = await mkdtemp(join(tmpdir(), "osb-ssh-"));
    try {
      const knownHosts = join(directory, "known_hosts");
      await writeFile(knownHosts, `opensandbox ${gateway.hostKey}\n`);
      const options = [
        ...["StrictHostKeyChecking=yes", `UserKnownHostsFile=${knownHosts}`, "HostKeyAlias=opensandbox"],
        ...["ForwardAgent=no", "LogLevel=ERROR"],
      ];
      const args = [
        ...["-p", `${gateway.port}`, ...options.flatMap((option) => ["-o", option])],
        ...(identity === undefined ? [] : ["-i", identity]),
        ...["-l", id, gateway.host, ...(line === undefined ? [] : [line])],
      ];
      return await runSsh(args, host.env, host);
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
});
