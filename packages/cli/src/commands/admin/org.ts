import type { Organization } from "@opensandbox/server";
import { flag, one, whole } from "#arguments/inputs.ts";
import { age } from "#output/age.ts";
import { table } from "#output/table.ts";
import { defineCommand, defineGroup } from "../../command.ts";
import type { Host } from "../../context.ts";

const limits = {
  maxSandboxes: whole("N", "active sandboxes together (default: the server's limit)"),
  maxMemory: whole("MIB", "memory of its active sandboxes together, in MiB (default: the server's limit)"),
  maxDisk: whole("MIB", "disk of its sandboxes and snapshots together (default: the server's limit)"),
};

async function opened({ env }: Host) {
  const { administer, readConfig } = await import("@opensandbox/server");
  return await administer(readConfig(env));
}

const create = defineCommand({
  summary: "Create an organization",
  description: `Its sandboxes, checkpoints and images are invisible to others. It has no key yet: see 'admin key create'.`,
  arguments: { name: one("NAME") },
  options: limits,
  examples: [{ line: "admin org create research --max-sandboxes 20", shows: "create one with a limit of its own" }],
  async run({ name, maxSandboxes, maxMemory, maxDisk }, { host, print }) {
    await using administration = await opened(host);
    const wanted = { maxSandboxes, maxMemoryMib: maxMemory, maxDiskMib: maxDisk };
    const made = await administration.createOrganization(name, wanted);
    await print(made.id, made);
  },
});

const list = defineCommand({
  summary: "List the organizations",
  examples: [{ line: "admin org list", shows: "list them with their limits" }],
  async run(_input, { host, print }) {
    await using administration = await opened(host);
    const found = await administration.listOrganizations();
    await print(table(["ID", "NAME", "AGE", "STATE", "SANDBOXES", "MEMORY MIB", "DISK MIB"], found.map(rowOf)), found);
  },
});

function rowOf(organization: Organization): string[] {
  const { id, name, createdAt, revokedAt, maxSandboxes, maxMemoryMib, maxDiskMib } = organization;
  const limit = (value: number | undefined): string => (value === undefined ? "-" : `${value}`);
  const state = revokedAt === undefined ? "active" : "revoked";
  const own = [maxSandboxes, maxMemoryMib, maxDiskMib].map(limit);
  return [id, name, age(createdAt.toISOString()), state, ...own];
}

const set = defineCommand({
  summary: "Change the limits of an organization",
  description: "Limits that are not given stay. New limits apply to later starts; running sandboxes keep running.",
  arguments: { id: one("ORGANIZATION") },
  options: { ...limits, unset: flag("remove the organization's own limits first") },
  examples: [{ line: "admin org set org-1a2b3c4d5e6f7081 --max-memory 65536", shows: "allow 64 GiB" }],
  async run({ id, maxSandboxes, maxMemory, maxDisk, unset }, { host, print }) {
    await using administration = await opened(host);
    const absent = unset ? null : undefined;
    const changed = await administration.setLimits(id, {
      maxSandboxes: maxSandboxes ?? absent,
      maxMemoryMib: maxMemory ?? absent,
      maxDiskMib: maxDisk ?? absent,
    });
    await print(
      table(["ID", "NAME", "AGE", "STATE", "SANDBOXES", "MEMORY MIB", "DISK MIB"], [rowOf(changed)]),
      changed,
    );
  },
});

const revoke = defineCommand({
  summary: "Refuse every key of an organization",
  description: `New calls are refused at once, and open streams end within a minute. Its sandboxes stay, and go on running until their
idle timeout.`,
  arguments: { id: one("ORGANIZATION") },
  options: { undo: flag("accept its keys again, except those that were revoked themselves") },
  examples: [{ line: "admin org revoke org-1a2b3c4d5e6f7081", shows: "lock an organization out" }],
  async run({ id, undo }, { host, print }) {
    await using administration = await opened(host);
    const changed = await administration.setRevoked(id, !undo);
    await print(`${changed.id} is ${undo ? "active" : "revoked"}`, changed);
  },
});

export const org = defineGroup({
  summary: "Create, list, limit and revoke organizations",
  commands: { create, list, set, revoke },
});
