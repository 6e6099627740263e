import { list as commaList, one, text } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import { findStore } from "./find-store.ts";

const hostsHelp = "hosts that its secrets may be sent to, such as api.example.com,*.example.org";

const create = defineCommand({
  summary: "Create a secret store, and print its id",
  arguments: { name: one("NAME") },
  options: { hosts: commaList(hostsHelp) },
  examples: [
    { line: "secret store create ci --hosts api.github.com", shows: "create a store for one host" },
    { line: "secret store create ci", shows: "create a store whose secrets name their own hosts" },
  ],
  async run({ name, hosts }, { client, print, signal }) {
    const { secrets } = await client();
    const made = await secrets.createStore({ name, ...(hosts === undefined ? {} : { hosts }) }, signal);
    await print(made.id, made);
  },
});

const ls = defineCommand({
  summary: "List secret stores",
  examples: [{ line: "secret store ls", shows: "list stores with their hosts" }],
  async run(_input, { client, print, signal }) {
    const { secrets } = await client();
    const found = await secrets.listStores(signal);
    const rows = found.map(({ name, id, hosts, updatedAt }) => [name, id, hosts.join(",") || "-", age(updatedAt)]);
    const head = ["NAME", "ID", "HOSTS", "CHANGED"];
    await print(rows.length === 0 ? "no secret stores" : table(head, rows), found);
  },
});

const update = defineCommand({
  summary: "Change a secret store's name or hosts",
  arguments: { store: one("STORE") },
  options: {
    name: text("NAME", "a new name"),
    hosts: commaList("hosts that its secrets may be sent to; empty: each secret names its own"),
  },
  examples: [{ line: "secret store update ci --hosts api.github.com,uploads.github.com", shows: "replace the hosts" }],
  check({ name, hosts }) {
    return name === undefined && hosts === undefined ? "nothing to change: give --name or --hosts" : undefined;
  },
  async run({ store, name, hosts }, { client, print, signal }) {
    const connected = await client();
    const { id } = await findStore(connected, store, signal);
    const changes = { ...(name === undefined ? {} : { name }), ...(hosts === undefined ? {} : { hosts }) };
    const changed = await connected.secrets.updateStore(id, changes, signal);
    await print(`changed secret store ${changed.name}`, changed);
  },
});

const rm = defineCommand({
  summary: "Delete a secret store with its secrets; running sandboxes lose them at once",
  arguments: { store: one("STORE") },
  examples: [{ line: "secret store rm ci", shows: "delete a store" }],
  async run({ store }, { client, print, signal }) {
    const connected = await client();
    const { id, name } = await findStore(connected, store, signal);
    await connected.secrets.deleteStore(id, signal);
    await print(`deleted secret store ${name}`, { id, name, deleted: true });
  },
});

export const store = defineGroup({
  summary: "Create and change secret stores",
  commands: { create, ls, update, rm },
});
