import { X509Certificate } from "node:crypto";
import { dataDirectory } from "../options.ts";

/** In the data directory, whose files the unit of a server gives to the server's user. */
export const chainFile = `${dataDirectory}/tls/chain.pem`;
export const keyFile = `${dataDirectory}/tls/key.pem`;

/** Settings of a server that uses them. */
export const certificateSettings = { OPENSANDBOX_TLS_CERT: chainFile, OPENSANDBOX_TLS_KEY: keyFile } as const;

/** The key of the account with the authority. */
export const accountFile = "/etc/opensandbox/acme-account.pem";

/** The time before its end at which a certificate is replaced: weeks are left to mend a hook that fails. */
const marginMs = 30 * 86_400_000;

/** Whether a certificate does not cover the domain and its names, or ends within a month. */
export function isDue(chain: string, domain: string, now = Date.now()): boolean {
  let certificate: X509Certificate;
  try {
    certificate = new X509Certificate(chain);
  } catch {
    return true;
  }
  const covers = [domain, `any.${domain}`].every((name) => certificate.checkHost(name) !== undefined);
  return !covers || certificate.validToDate.getTime() - marginMs < now;
}
