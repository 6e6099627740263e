import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ArmClient } from "./arm-client.ts";
import { deletionOrder, getOf, resourceGroup, resourcesOf, type SingleHost, tagName } from "./single-host.ts";

export interface Owned {
  /** Resources with our tag, in the order of their deletion. */
  readonly resources: readonly { readonly id: string; readonly apiVersion: string }[];
  /** Whether the resource group has our tag. */
  readonly group: boolean;
}

type Target = Pick<SingleHost, "subscription" | "name">;

interface Listed {
  readonly id: string;
  readonly type: string;
  readonly tags?: Readonly<Record<string, string>>;
}

/** Undefined when there is no resource group of that name. */
export async function findOwned(arm: ArmClient, target: Target, signal: AbortSignal): Promise<Owned | undefined> {
  const found = await arm.send(getOf(resourceGroup({ ...target, location: "" })), signal);
  if (!found.ok) {
    if (found.status === 404) return undefined;
    throw new SandboxError(
      "unavailable",
      `cannot look up the resource group ${target.name}: ${found.code}: ${found.message}`,
    );
  }
  const group = isTagged(found.value as Pick<Listed, "tags">, target);
  const listed = (await arm.list(resourcesOf(target), signal)) as Listed[];
  const tagged = listed.filter((resource) => isTagged(resource, target));
  const resources = deletionOrder.flatMap(([type, apiVersion]) =>
    tagged.filter((resource) => isOfType(resource, type)).map(({ id }) => ({ id, apiVersion })),
  );
  return { resources, group };
}

export interface Destroyed {
  readonly deleted: readonly string[];
  /** Resources in the group that are not ours. Then the group stays. */
  readonly kept: readonly string[];
}

/** Deletes the resources one after another, then the group if it is ours and nothing else is in it. */
export async function destroyHost(
  arm: ArmClient,
  target: Target,
  { resources, group }: Owned,
  onDelete: (id: string) => void,
  signal: AbortSignal,
): Promise<Destroyed> {
  const deleted: string[] = [];
  const remove = async (path: string, apiVersion: string): Promise<void> => {
    onDelete(path);
    const result = await arm.send({ method: "DELETE", path, apiVersion }, signal);
    if (!result.ok && result.status !== 404) {
      throw new SandboxError("unavailable", `cannot delete ${path}: ${result.code}: ${result.message}`);
    }
    deleted.push(path);
  };
  for (const { id, apiVersion } of resources) await remove(id, apiVersion);
  const kept = ((await arm.list(resourcesOf(target), signal)) as Listed[]).map(({ id }) => id);
  if (!group || kept.length > 0) return { deleted, kept };
  const { path, apiVersion } = resourceGroup({ ...target, location: "" });
  await remove(path, apiVersion);
  return { deleted, kept };
}

function isTagged({ tags }: Pick<Listed, "tags">, { name }: Target): boolean {
  return tags?.[tagName] === name;
}

/** Azure does not keep the case of types. */
function isOfType(resource: Listed, type: string): boolean {
  return resource.type.toLowerCase() === type.toLowerCase();
}
