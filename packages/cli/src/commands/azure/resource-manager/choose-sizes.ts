import type { Arm } from "./arm-client.ts";
import { type SingleHost, sizesOf, usagesOf } from "./single-host.ts";

export interface ChosenSizes {
  readonly usable: readonly string[];
  /** Why each other size cannot be created. */
  readonly unusable: readonly string[];
}

interface Sku {
  readonly resourceType?: string;
  readonly name?: string;
  readonly family?: string;
  readonly capabilities?: readonly { readonly name: string; readonly value: string }[];
  readonly restrictions?: readonly { readonly type: string; readonly reasonCode: string }[];
}

interface Usage {
  readonly name: { readonly value: string };
  readonly currentValue: number;
  readonly limit: number;
}

/** Sizes that the location has and whose quota is free, in the wanted order. */
export async function chooseSizes(
  arm: Arm,
  host: Pick<SingleHost, "subscription" | "location">,
  wanted: readonly string[],
  signal: AbortSignal,
): Promise<ChosenSizes> {
  const skus = (await arm.list(sizesOf(host), signal)) as Sku[];
  const usages = (await arm.list(usagesOf(host), signal)) as Usage[];
  const problems = wanted.map((size) => problemOf(size, host.location, skus, usages));
  return {
    usable: wanted.filter((_, index) => problems[index] === undefined),
    unusable: problems.filter((problem) => problem !== undefined),
  };
}

function problemOf(size: string, location: string, skus: readonly Sku[], usages: readonly Usage[]): string | undefined {
  const sku = skus.find(({ resourceType, name }) => resourceType === "virtualMachines" && name === size);
  if (sku === undefined) return `${size}: not in ${location}`;
  const restriction = sku.restrictions?.find(({ type }) => type === "Location");
  if (restriction !== undefined) return `${size}: ${restriction.reasonCode}`;
  const vcpus = Number(sku.capabilities?.find(({ name }) => name === "vCPUs")?.value ?? 0);
  for (const quota of [sku.family, "cores"]) {
    const usage = usages.find(({ name }) => name.value.toLowerCase() === quota?.toLowerCase());
    if (usage === undefined) continue;
    const free = usage.limit - usage.currentValue;
    if (free < vcpus)
      return `${size}: needs ${vcpus} vCPUs of the quota ${usage.name.value}, of which ${free} are free`;
  }
  return undefined;
}
