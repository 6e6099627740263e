import { webcrypto } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { GuestAuthority } from "@opensandbox/wire/worker/worker.ts";

/** A server's certificate and its private key, PEM. */
export interface LeafCertificate {
  readonly certificate: string;
  readonly privateKey: string;
}

const algorithm = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

/** Some clients refuse certificates of a longer life. */
const lifetimeMs = 30 * 24 * 3_600_000;
/** A guest's clock may be behind. */
const earlierMs = 24 * 3_600_000;
const renewAfterMs = 24 * 3_600_000;

/** A guest can name any host below an allowed one. */
const maxCertificates = 256;

interface Issued {
  readonly issuedAt: number;
  readonly certificate: Promise<LeafCertificate>;
}

type Signer = Awaited<ReturnType<typeof openAuthority>>;

/** Issues certificates for the hosts of one sandbox's secrets, all for one key. */
export class LeafCertificates {
  readonly #authority: GuestAuthority;
  readonly #issued = new Map<string, Issued>();
  #signer: Promise<Signer> | undefined;

  constructor(authority: GuestAuthority) {
    this.#authority = authority;
  }

  async of(name: string, now = Date.now()): Promise<LeafCertificate> {
    const earlier = this.#issued.get(name);
    if (earlier !== undefined && now - earlier.issuedAt < renewAfterMs) return await earlier.certificate;
    const certificate = this.#issue(name, now);
    this.#issued.delete(name);
    const [oldest] = this.#issued.keys();
    if (this.#issued.size >= maxCertificates && oldest !== undefined) this.#issued.delete(oldest);
    this.#issued.set(name, { issuedAt: now, certificate });
    certificate.catch(() => this.#issued.delete(name));
    return await certificate;
  }

  async #issue(name: string, now: number): Promise<LeafCertificate> {
    this.#signer ??= openAuthority(this.#authority);
    const { x509, issuer, signingKey, keys, privateKey } = await this.#signer;
    const certificate = await x509.X509CertificateGenerator.create(
      {
        subject: "CN=OpenSandbox",
        issuer: issuer.subjectName,
        notBefore: new Date(now - earlierMs),
        notAfter: new Date(now + lifetimeMs),
        publicKey: keys.publicKey,
        signingKey,
        signingAlgorithm: algorithm,
        extensions: [
          new x509.BasicConstraintsExtension(false, undefined, true),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
          new x509.ExtendedKeyUsageExtension([x509.ExtendedKeyUsage.serverAuth]),
          // Critical, because the subject names no host (RFC 5280 section 4.2.1.6).
          new x509.SubjectAlternativeNameExtension([{ type: "dns", value: name }]),
          await x509.AuthorityKeyIdentifierExtension.create(issuer.publicKey),
          await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
        ],
      },
      webcrypto,
    );
    return { certificate: `${certificate.toString("pem")}\n`, privateKey };
  }
}

/** @throws `internal` for an authority that is not PEM */
async function openAuthority({ certificate, privateKey }: GuestAuthority) {
  // Loaded here, because only sandboxes with secrets need it.
  await import("reflect-metadata");
  const x509 = await import("@peculiar/x509");
  const { subtle } = webcrypto;
  const [, base64 = ""] = /-----BEGIN PRIVATE KEY-----([^-]+)-----END PRIVATE KEY-----/.exec(privateKey) ?? [];
  if (base64 === "") throw new SandboxError("internal", "the authority's private key is not PEM");
  const signingKey = await subtle.importKey("pkcs8", Buffer.from(base64, "base64"), algorithm, false, ["sign"]);
  const keys = await subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const exported = Buffer.from(await subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  return {
    ...{ x509, signingKey, keys },
    issuer: new x509.X509Certificate(certificate),
    privateKey: `-----BEGIN PRIVATE KEY-----\n${exported.replaceAll(/.{64}/g, "$&\n").trim()}\n-----END PRIVATE KEY-----\n`,
  };
}
