import { parseIpv4 } from "@opensandbox/wire/ipv4.ts";
import { inner, macBytes } from "../address-plan.ts";

/** The MAC address of a plugged guest. */
export const guestMac = "02:00:0a:00:02:0f";

/** Frames that a guest's kernel would not send. */
export interface UdpFrame {
  readonly fromMac?: string;
  readonly from?: string;
  readonly to: string;
  readonly port: number;
  readonly text: string;
}

export function udpFrame({ fromMac = guestMac, from = inner.guest, to, port, text }: UdpFrame): Buffer {
  const data = Buffer.from(text, "latin1");
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(40_000, 0);
  udp.writeUInt16BE(port, 2);
  udp.writeUInt16BE(8 + data.length, 4);
  // Without a checksum, which IPv4 permits.
  const ip = Buffer.alloc(20);
  ip.writeUInt8(0x45, 0);
  ip.writeUInt16BE(28 + data.length, 2);
  ip.writeUInt8(64, 8);
  ip.writeUInt8(17, 9);
  ip.writeUInt32BE(parseIpv4(from) ?? 0, 12);
  ip.writeUInt32BE(parseIpv4(to) ?? 0, 16);
  ip.writeUInt16BE(checksum(ip), 10);
  return Buffer.concat([ethernet(fromMac, inner.gatewayMac, 0x0800), ip, udp, data]);
}

/** "Who has the gateway? Tell `from`": every receiver that believes it stores the address of `from`. */
export function arpRequest(from: string, fromMac: string): Buffer {
  const arp = Buffer.alloc(28);
  arp.set([0, 1, 8, 0, 6, 4, 0, 1]);
  arp.set(macBytes(fromMac), 8);
  arp.writeUInt32BE(parseIpv4(from) ?? 0, 14);
  arp.writeUInt32BE(parseIpv4(inner.gateway) ?? 0, 24);
  return Buffer.concat([ethernet(guestMac, "ff:ff:ff:ff:ff:ff", 0x0806), arp]);
}

/** A ping over IPv6, between addresses of 16 bytes. */
export function pingIpv6(from: Buffer, to: Buffer): Buffer {
  const icmp = Buffer.from([128, 0, 0, 0, 0, 1, 0, 1]);
  const pseudo = Buffer.concat([from, to, Buffer.from([0, 0, 0, icmp.length, 0, 0, 0, 58])]);
  icmp.writeUInt16BE(checksum(Buffer.concat([pseudo, icmp])), 2);
  const ip = Buffer.from([0x60, 0, 0, 0, 0, icmp.length, 58, 64]);
  return Buffer.concat([ethernet(guestMac, inner.gatewayMac, 0x86dd), ip, from, to, icmp]);
}

/** Whether a frame carries IPv6. */
export function isIpv6(frame: Buffer): boolean {
  return frame.readUInt16BE(12) === 0x86dd;
}

function ethernet(from: string, to: string, type: number): Buffer {
  const header = Buffer.alloc(14);
  header.set(macBytes(to), 0);
  header.set(macBytes(from), 6);
  header.writeUInt16BE(type, 12);
  return header;
}

/** RFC 1071. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at += 2) sum += (bytes[at]! << 8) | (bytes[at + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}
