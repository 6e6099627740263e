import { webcrypto } from "node:crypto";
import type { GuestAuthority } from "./secret-rows.ts";

/**
 * The subject of every authority. The guest agent knows the name that OpenSSL derives from it for the directory of
 * trusted certificates (guest-agent/src/system/authority.ts).
 */
const subject = "CN=OpenSandbox secrets of this sandbox";

const lifetimeMs = 20 * 365 * 24 * 3_600_000;
/** A guest's clock may be behind. */
const earlierMs = 24 * 3_600_000;

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

/** Makes a certificate authority. Its private key never enters a guest. */
export async function makeGuestAuthority(now: number): Promise<GuestAuthority> {
  // Loaded here, because only sandboxes with secrets need it.
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned(
    {
      name: subject,
      notBefore: new Date(now - earlierMs),
      notAfter: new Date(now + lifetimeMs),
      keys,
      signingAlgorithm: algorithm,
      extensions: [
        new x509.BasicConstraintsExtension(true, 0, true),
        new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
      ],
    },
    webcrypto,
  );
  const exported = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const privateKey = `-----BEGIN PRIVATE KEY-----\n${exported.replaceAll(/.{64}/g, "$&\n").trim()}\n-----END PRIVATE KEY-----\n`;
  return { certificate: `${certificate.toString("pem")}\n`, privateKey };
}
