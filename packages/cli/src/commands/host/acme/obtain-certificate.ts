import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { System } from "../system.ts";
import { accountFile, chainFile, isDue, keyFile } from "./certificate-files.ts";
import type { AcmeChoice } from "./acme-options.ts";

export interface CertificateRequest extends AcmeChoice {
  readonly system: System;
  readonly domain: string;
  readonly note: (text: string) => void;
  /** The wait for a new record to reach the domain's name servers, in milliseconds. Absent: 30 s. */
  readonly recordMs?: number;
}

const defaultRecordMs = 30_000;

/**
 * Gets a certificate for a domain and every name in it, unless the present one is good for another month. The authority
 * proves the domain by records that the hook sets: `HOOK set NAME VALUE`, and `HOOK clear NAME VALUE` afterwards.
 * @returns whether there is a new certificate
 * @throws `unavailable` when the hook fails or the authority refuses
 */
export async function obtainCertificate(request: CertificateRequest, signal: AbortSignal): Promise<boolean> {
  const { system, domain, email, note } = request;
  const present = await system.read(chainFile);
  if (present !== undefined && !isDue(present, domain)) return false;
  const { Client, crypto, directory } = await import("acme-client");
  const accountKey = (await system.read(accountFile)) ?? (await crypto.createPrivateEcdsaKey()).toString();
  // Before its first use: an account without its key is lost.
  await system.write(accountFile, accountKey, 0o600);
  const [key, csr] = await crypto.createCsr(
    { commonName: domain, altNames: [domain, `*.${domain}`] },
    await crypto.createPrivateEcdsaKey(),
  );
  const client = new Client({ directoryUrl: request.directory ?? directory.letsencrypt.production, accountKey });
  note(`asking for a certificate of ${domain} and *.${domain}`);
  try {
    const chain = await client.auto({
      csr,
      email,
      termsOfServiceAgreed: true,
      challengePriority: ["dns-01"],
      // The authority looks itself, and this host may have other name servers.
      skipChallengeVerification: true,
      challengeCreateFn: async ({ identifier }, { type }, value) => {
        signal.throwIfAborted();
        if (type !== "dns-01") throw new Error(`the authority offers ${type} and no dns-01 for ${identifier.value}`);
        await changeRecord(request, "set", identifier.value, value);
      },
      challengeRemoveFn: async ({ identifier }, _, value) => {
        await changeRecord(request, "clear", identifier.value, value);
      },
    });
    // The key first: a server that starts between the two refuses the pair, and its next start has both.
    await system.write(keyFile, key.toString(), 0o600);
    await system.write(chainFile, chain, 0o600);
  } catch (cause) {
    if (cause instanceof SandboxError) throw cause;
    const message = `cannot get a certificate of ${domain}: ${(cause as Error).message}`;
    throw new SandboxError("unavailable", message, { cause });
  }
  return true;
}

async function changeRecord(
  { system, hook, note, recordMs = defaultRecordMs }: CertificateRequest,
  verb: "set" | "clear",
  domain: string,
  value: string,
): Promise<void> {
  const name = `_acme-challenge.${domain}`;
  note(`${verb === "set" ? "setting" : "clearing"} the record ${name}`);
  await system.change(hook, verb, name, value);
  if (verb === "set") await new Promise((resolve) => setTimeout(resolve, recordMs));
}
