import { text } from "#arguments/inputs.ts";

/** The choices of a certificate from an authority that speaks ACME (RFC 8555). */
export interface AcmeChoice {
  readonly email: string;
  /** The absolute path of the program that changes the records of the domain. */
  readonly hook: string;
  /** The directory of the authority. Absent: that of Let's Encrypt. */
  readonly directory?: string | undefined;
}

export const acmeOptions = {
  acmeEmail: text("ADDRESS", "get a certificate for DOMAIN and *.DOMAIN by ACME, with this contact"),
  acmeHook: text("FILE", "the program that sets and clears DNS records for ACME"),
  acmeDirectory: text("URL", "the directory of the authority (default: Let's Encrypt)"),
};

export interface AcmeInput {
  readonly acmeEmail?: string | undefined;
  readonly acmeHook?: string | undefined;
  readonly acmeDirectory?: string | undefined;
}

/** Returns a message about an invalid combination. */
export function checkAcmeInput({ acmeEmail, acmeHook, acmeDirectory }: AcmeInput): string | undefined {
  if ((acmeEmail === undefined) !== (acmeHook === undefined)) return "--acme-email and --acme-hook belong together";
  if (acmeEmail !== undefined && !/^[^\s@]+@[^\s@]+$/.test(acmeEmail)) return "--acme-email takes an address of mail";
  if (acmeHook !== undefined && !acmeHook.startsWith("/")) return "--acme-hook takes an absolute path";
  if (acmeDirectory !== undefined && !acmeDirectory.startsWith("https://"))
    return "--acme-directory must begin with https://";
  return undefined;
}

export function acmeFrom({ acmeEmail, acmeHook, acmeDirectory }: AcmeInput): AcmeChoice | undefined {
  if (acmeEmail === undefined || acmeHook === undefined) return undefined;
  return { email: acmeEmail, hook: acmeHook, ...(acmeDirectory === undefined ? {} : { directory: acmeDirectory }) };
}
