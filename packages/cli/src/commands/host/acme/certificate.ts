import { flag, text } from "#arguments/inputs.ts";
import { defineCommand } from "../../../command.ts";
import { requireRoot } from "../require-root.ts";
import { acmeFrom, acmeOptions, checkAcmeInput } from "./acme-options.ts";

export const certificate = defineCommand({
  summary: "Get or renew the certificate of this host's domain by ACME",
  description: `Gets a certificate for DOMAIN and *.DOMAIN, unless the present one is good for another month. 'host setup' with the same
options runs this, and a timer repeats it every day.

The authority proves the domain by DNS records, which a program of yours changes: FILE set NAME VALUE adds a TXT record,
and FILE clear NAME VALUE removes it. Two records of one name exist at a time.`,
  options: {
    domain: text("NAME", "the domain"),
    ...acmeOptions,
    restart: text("UNIT", "restart this service after a new certificate, if it runs"),
    dryRun: flag("say whether the certificate is due and change nothing"),
  },
  examples: [
    {
      line: "host certificate --domain example.com --acme-email me@example.com --acme-hook /etc/dns-hook",
      shows: "get a certificate",
    },
  ],
  check: ({ domain, ...acme }) => {
    if (domain === undefined || !/^([a-z0-9-]+\.)+[a-z]{2,}$/.test(domain))
      return "--domain takes a name such as example.com";
    if (acme.acmeEmail === undefined) return "--acme-email and --acme-hook are needed";
    return checkAcmeInput(acme);
  },
  async run({ domain = "", restart, dryRun, ...acme }, { host, note, print, signal }) {
    const { System } = await import("../system.ts");
    const { chainFile, isDue } = await import("./certificate-files.ts");
    const { obtainCertificate } = await import("./obtain-certificate.ts");
    const system = new System();
    if (dryRun) {
      const present = await system.read(chainFile);
      const due = present === undefined || isDue(present, domain);
      await print(due ? `a certificate of ${domain} is due` : `the certificate of ${domain} is good`, { due });
      return 0;
    }
    requireRoot(host.program, "host certificate");
    const choice = acmeFrom(acme);
    if (choice === undefined) return 2;
    const renewed = await obtainCertificate({ ...choice, system, domain, note }, signal);
    // Machines outlive a restart of their server.
    if (renewed && restart !== undefined) await system.change("systemctl", "try-restart", restart);
    await print(renewed ? `${chainFile} is new` : `${chainFile} is good for another month`, { renewed });
    return 0;
  },
});
