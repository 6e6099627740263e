import { devices, inner, type SlotNames } from "./address-plan.ts";
import { type NetworkLimits, transparentRoutes } from "./namespace-rules.ts";

/** Adds the namespaces of slots and the cables into them: input for `ip -batch`. */
export function hostCommands(slots: readonly SlotNames[]): string {
  return lines(
    slots.flatMap(({ namespace, hostCable, hostAddress }) => [
      `netns add ${namespace}`,
      `link add ${hostCable} type veth peer name ${devices.uplink} netns ${namespace}`,
      `addr add ${hostAddress}/30 dev ${hostCable}`,
      `link set ${hostCable} up`,
    ]),
  );
}

/** Sets up the inside of a namespace: input for `ip -n <namespace> -batch`. */
export function namespaceCommands({ hostAddress, outerAddress }: SlotNames): string {
  const { tap, uplink } = devices;
  return lines([
    "link set lo up",
    `addr add ${outerAddress}/30 dev ${uplink}`,
    `link set ${uplink} up`,
    `route add default via ${hostAddress}`,
    `tuntap add ${tap} mode tap vnet_hdr`,
    `link set ${tap} address ${inner.gatewayMac}`,
    `addr add ${inner.gateway}/${inner.prefix} dev ${tap}`,
    `addr add ${inner.nameServer}/32 dev ${tap}`,
    `addr add ${inner.metadata}/32 dev ${tap}`,
    `link set ${tap} up`,
    ...transparentRoutes,
  ]);
}

/** The queue of each direction: input for `tc -batch`. Packets above the rate are delayed, and dropped after 50 ms. */
export function queueCommands({ bandwidthMbit }: NetworkLimits): string {
  // The bucket must hold the traffic between two ticks of the slowest kernel clock, 10 ms.
  const burst = Math.max(256 * 1024, Math.ceil((bandwidthMbit * 1_000_000 * 0.01) / 8));
  return lines(
    [devices.tap, devices.uplink].map(
      (device) => `qdisc replace dev ${device} root tbf rate ${bandwidthMbit}mbit burst ${burst} latency 50ms`,
    ),
  );
}

/** Settings of a namespace: files below /proc/sys/net. */
export const namespaceSettings: readonly (readonly [file: string, value: string])[] = [
  ["ipv4/ip_forward", "1"],
  // Answers every refused packet, instead of one a second. Only the guest that sent the packet receives the answer.
  ["ipv4/icmp_ratelimit", "0"],
  ["ipv6/conf/all/disable_ipv6", "1"],
  ["ipv6/conf/default/disable_ipv6", "1"],
];

/** Removes the cables of slots, then the namespaces: input for `ip -force -batch`, which passes over missing ones. */
export function removalCommands(slots: readonly SlotNames[]): string {
  // A cable disappears with its namespace, but only after the last process in it has ended.
  return lines([
    ...slots.map(({ hostCable }) => `link del ${hostCable}`),
    ...slots.map(({ namespace }) => `netns del ${namespace}`),
  ]);
}

function lines(commands: readonly string[]): string {
  return commands.map((command) => `${command}\n`).join("");
}
