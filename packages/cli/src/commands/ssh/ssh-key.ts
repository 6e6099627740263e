import { readFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { one, text } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand, defineGroup } from "../../command.ts";

const add = defineCommand({
  summary: "Add a public key, which may connect to every sandbox of the organization",
  arguments: { file: one("FILE") },
  options: { name: text("NAME", "a name (default: the key's comment)") },
  examples: [{ line: "ssh-key add ~/.ssh/id_ed25519.pub", shows: "add your own key" }],
  async run({ file, name }, { client, print, signal }) {
    let publicKey: string;
    try {
      publicKey = await readFile(file, "utf8");
    } catch (cause) {
      throw new SandboxError("invalid_argument", `cannot read ${file}: ${(cause as Error).message}`, { cause });
    }
    const { ssh } = await client();
    const added = await ssh.addKey({ publicKey, ...(name === undefined ? {} : { name }) }, signal);
    await print(`added ${added.name} (${added.fingerprint})`, added);
  },
});

const ls = defineCommand({
  summary: "List SSH keys",
  examples: [{ line: "ssh-key ls", shows: "list the keys of the organization with their last use" }],
  async run(_input, { client, print, signal }) {
    const found = await (await client()).ssh.listKeys(signal);
    const rows = found.map(({ id, name, type, fingerprint, lastUsedAt }) => [
      ...[id, name, type, fingerprint, lastUsedAt === undefined ? "-" : age(lastUsedAt)],
    ]);
    await print(
      rows.length === 0 ? "no SSH keys" : table(["ID", "NAME", "TYPE", "FINGERPRINT", "LAST USE"], rows),
      found,
    );
  },
});

const rm = defineCommand({
  summary: "Remove an SSH key; its open connections end within a minute",
  arguments: { key: one("KEY") },
  examples: [
    { line: "ssh-key rm laptop", shows: "remove a key by its name" },
    {
      line: "ssh-key rm SHA256:2o3cEWRuUgFnGWqB",
      shows: "remove a key by the beginning of its fingerprint, or by its id",
    },
  ],
  async run({ key }, { client, print, signal }) {
    const { ssh } = await client();
    const found = (await ssh.listKeys(signal)).filter(
      ({ id, name, fingerprint }) =>
        id === key || name === key || (key.startsWith("SHA256:") && fingerprint.startsWith(key)),
    );
    const [only, ...others] = found;
    if (only === undefined) {
      throw new SandboxError("not_found", `SSH key ${key} does not exist`, { resource: "SSH key", id: key });
    }
    if (others.length > 0) throw new SandboxError("invalid_argument", `several SSH keys match ${key}: name the id`);
    await ssh.removeKey(only.id, signal);
    await print(`removed ${only.name} (${only.fingerprint})`, { ...only, removed: true });
  },
});

export const sshKey = defineGroup({
  summary: "Add, list and remove the public keys of the SSH gateway",
  commands: { add, ls, rm },
});
