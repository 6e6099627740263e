import type { ApiKey } from "@opensandbox/server";
import { list as commaList, one, text, whole } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import type { Host } from "../../context.ts";

async function opened({ env }: Host) {
  const { administer, readConfig } = await import("@opensandbox/server");
  return await administer(readConfig(env));
}

const create = defineCommand({
  summary: "Create an API key, and print it once",
  description: `Scopes are sandboxes, images, secrets and admin, each followed by :read or :write; without either, a scope means :write,
which includes :read. The database stores only a hash of the key.`,
  arguments: { name: one("NAME") },
  options: {
    org: text("ORGANIZATION", "the organization (default: that of the first key)"),
    scopes: commaList("scopes, separated by commas (default: all)"),
    expiresDays: whole("DAYS", "the key expires after this time (default: never)"),
  },
  examples: [
    { line: "admin key create ci --scopes sandboxes --expires-days 90", shows: "create a key that runs sandboxes" },
    { line: "admin key create dashboard --scopes sandboxes:read,images:read", shows: "create a key that only reads" },
  ],
  async run({ name, org, scopes, expiresDays }, { host, print, note }) {
    await using administration = await opened(host);
    const wanted = { name, organizationId: org, scopes, lifetimeDays: expiresDays };
    const { key, apiKey } = await administration.createKey(wanted);
    await print(key, { ...apiKey, key });
    note(`the key ${apiKey.id} has the scopes ${apiKey.scopes.join(", ")}; it is not shown again`);
  },
});

const list = defineCommand({
  summary: "List API keys",
  options: { org: text("ORGANIZATION", "only the keys of this organization") },
  examples: [{ line: "admin key list", shows: "list all keys with scopes, expiry and last use" }],
  async run({ org }, { host, print }) {
    await using administration = await opened(host);
    const found = await administration.listKeys(org);
    const head = ["ID", "BEGINS", "NAME", "ORGANIZATION", "SCOPES", "STATE", "LAST USE"];
    await print(found.length === 0 ? "no API keys" : table(head, found.map(rowOf)), found);
  },
});

function rowOf({ id, prefix, name, organizationId, scopes, expiresAt, revokedAt, lastUsedAt }: ApiKey): string[] {
  const isExpired = expiresAt !== undefined && expiresAt.getTime() <= Date.now();
  const expiry = expiresAt === undefined ? "active" : `until ${expiresAt.toISOString().slice(0, 10)}`;
  const state = revokedAt === undefined ? (isExpired ? "expired" : expiry) : "revoked";
  const used = lastUsedAt === undefined ? "-" : age(lastUsedAt.toISOString());
  return [id, prefix, name, organizationId, scopes.join(" "), state, used];
}

const revoke = defineCommand({
  summary: "Revoke an API key",
  description: "New calls with the key are refused at once, and its open streams end within a minute.",
  arguments: { key: one("KEY") },
  examples: [{ line: "admin key revoke osb_1a2b3c4d", shows: "revoke a key by its beginning, or by its id" }],
  async run({ key }, { host, print }) {
    await using administration = await opened(host);
    const revoked = await administration.revokeKey(key);
    await print(`revoked ${revoked.name} (${revoked.id})`, revoked);
  },
});

export const key = defineGroup({
  summary: "Create, list and revoke API keys",
  commands: { create, list, revoke },
});
