import type { ArmCall } from "./arm-client.ts";
import {
  getOf,
  publicAddress,
  putOf,
  type SingleHost,
  sizesOf,
  surroundings,
  usagesOf,
  virtualMachine,
} from "./single-host.ts";

/** The calls of a creation in an empty subscription where the first size is available, in order. */
export function plannedCalls(host: SingleHost, sizes: readonly string[]): readonly ArmCall[] {
  const machine = virtualMachine(host, sizes[0] ?? "");
  return [
    ...surroundings(host).flatMap((resource) => [getOf(resource), putOf(resource)]),
    getOf(machine),
    sizesOf(host),
    usagesOf(host),
    putOf(machine),
    getOf(publicAddress(host)),
  ];
}
