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

/** Each call with its body, for people. */
export function callLines(calls: readonly ArmCall[]): string {
  const lines = calls.map(({ method, path, apiVersion, body }) =>
    [
      `${method} ${path} (api-version ${apiVersion})`,
      ...(body === undefined ? [] : [JSON.stringify(body, undefined, 2)]),
    ].join("\n"),
  );
  return lines.join("\n\n");
}
