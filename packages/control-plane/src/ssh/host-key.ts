import { createPrivateKey, createPublicKey, randomBytes } from "node:crypto";
import { fingerprintOf } from "./public-key.ts";

/** The key by which clients know the gateway. */
export interface HostKey {
  /** In the format of OpenSSH. */
  readonly privateKey: string;
  /** As a known_hosts file holds it. */
  readonly publicKey: string;
  readonly fingerprint: string;
}

/** The head of a PKCS #8 file with an Ed25519 key, before the key's 32 bytes (RFC 8410). */
const pkcs8Head = Buffer.from("302e020100300506032b657004220420", "hex");

/** The Ed25519 key of a seed of 32 bytes, hexadecimal: the same seed gives the same key. */
export function hostKeyOf(seed: string): HostKey {
  const secret = Buffer.from(seed, "hex");
  const key = createPrivateKey({ key: Buffer.concat([pkcs8Head, secret]), format: "der", type: "pkcs8" });
  const { x = "" } = createPublicKey(key).export({ format: "jwk" });
  const point = Buffer.from(x, "base64url");
  const blob = Buffer.concat([sized("ssh-ed25519"), sized(point)]);
  return {
    privateKey: openSshPem(blob, Buffer.concat([secret, point]), point),
    publicKey: `ssh-ed25519 ${blob.toString("base64")}`,
    fingerprint: fingerprintOf(blob),
  };
}

/** A private key without a passphrase, as PROTOCOL.key of OpenSSH describes it. */
function openSshPem(publicBlob: Buffer, secret: Buffer, point: Buffer): string {
  const check = randomBytes(4);
  const keys = Buffer.concat([check, check, sized("ssh-ed25519"), sized(point), sized(secret), sized("")]);
  // Filled to whole blocks of 8 bytes with 1, 2, 3 and so on.
  const padding = Buffer.from(Array.from({ length: (8 - (keys.length % 8)) % 8 }, (_, index) => index + 1));
  const content = Buffer.concat([
    ...[Buffer.from("openssh-key-v1\0"), sized("none"), sized("none"), sized(""), uint32(1)],
    ...[sized(publicBlob), sized(Buffer.concat([keys, padding]))],
  ]);
  const lines = content.toString("base64").match(/.{1,70}/g) ?? [];
  return `-----BEGIN OPENSSH PRIVATE KEY-----\n${lines.join("\n")}\n-----END OPENSSH PRIVATE KEY-----\n`;
}

function sized(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
