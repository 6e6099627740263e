import { Buffer } from "node:buffer";
import type { Readable } from "node:stream";
import { list as commaList, one } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import { findStore } from "./find-store.ts";
import { store } from "./store.ts";

const set = defineCommand({
  summary: "Set a secret to the value on standard input",
  description:
    "The value is read from standard input, so that it appears neither in the history of the shell nor in the list of " +
    "processes. One line break at its end is left out. The name is that of the variable in sandboxes.",
  arguments: { store: one("STORE"), name: one("NAME") },
  options: { hosts: commaList("hosts that it may be sent to, within those of the store") },
  examples: [
    { line: "secret set ci GITHUB_TOKEN --hosts api.github.com < token.txt", shows: "set a secret for one host" },
  ],
  async run({ store: where, name, hosts }, { host, client, print, note, signal }) {
    const connected = await client();
    const { id, name: storeName, hosts: storeHosts } = await findStore(connected, where, signal);
    const value = (await allOf(host.stdin)).replace(/\r?\n$/, "");
    const secret = { name, value, ...(hosts === undefined ? {} : { hosts }) };
    const { refreshed, errors } = await connected.secrets.set(id, secret, signal);
    await print(`set ${name} in ${storeName}`, { store: id, name, refreshed, errors });
    for (const error of errors) note(error);
    if (hosts === undefined && storeHosts.length === 0) {
      note(`unless ${name} has hosts from before, it is sent nowhere: give --hosts, or hosts to the store`);
    }
  },
});

async function allOf(stream: Readable): Promise<string> {
  const parts: Buffer[] = [];
  for await (const part of stream as AsyncIterable<Buffer>) parts.push(part);
  return Buffer.concat(parts).toString("utf8");
}

const ls = defineCommand({
  summary: "List the secrets of a store, without their values",
  arguments: { store: one("STORE") },
  examples: [{ line: "secret ls ci", shows: "list names and hosts" }],
  async run({ store: where }, { client, print, signal }) {
    const connected = await client();
    const { id } = await findStore(connected, where, signal);
    const found = await connected.secrets.list(id, signal);
    const rows = found.map(({ name, hosts, updatedAt }) => [name, hosts.join(",") || "-", age(updatedAt)]);
    await print(rows.length === 0 ? "no secrets" : table(["NAME", "HOSTS", "CHANGED"], rows), found);
  },
});

const rm = defineCommand({
  summary: "Delete a secret; running sandboxes lose it at once",
  arguments: { store: one("STORE"), name: one("NAME") },
  examples: [{ line: "secret rm ci GITHUB_TOKEN", shows: "delete a secret" }],
  async run({ store: where, name }, { client, print, signal }) {
    const connected = await client();
    const { id, name: storeName } = await findStore(connected, where, signal);
    await connected.secrets.delete(id, name, signal);
    await print(`deleted ${name} from ${storeName}`, { store: id, name, deleted: true });
  },
});

export const secret = defineGroup({
  summary: "Keep secrets that sandboxes use and never see",
  commands: { store, set, ls, rm },
});
