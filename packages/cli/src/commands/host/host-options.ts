import { flag, text, whole } from "#arguments/inputs.ts";
import { acmeFrom, type AcmeInput, acmeOptions, checkAcmeInput } from "./acme/acme-options.ts";
import { certificateSettings } from "./acme/certificate-files.ts";
import { type HostOptions, type Role, roles } from "./options.ts";

/** Options of `host setup`; `host check` compares the host with the same ones. */
export const setupOptions = {
  role: text("ROLE", "combined, or a node of a fleet: server or worker (default: combined)"),
  join: text("URL", "the server of a worker's fleet, whose token is in OPENSANDBOX_FLEET_TOKEN"),
  dataDisk: text("DEVICE", "the disk for the data, none, or auto: the first empty one (default: auto)"),
  listen: text("ADDRESS", "the address that the server listens on (default: 127.0.0.1)"),
  port: whole("PORT", "the port that the server listens on (default: 8080)"),
  domain: text("NAME", "the domain of the host names of sandboxes' ports (default: localhost)"),
  tlsCert: text("FILE", "serve HTTPS with this certificate chain"),
  tlsKey: text("FILE", "the key of the certificate"),
  ...acmeOptions,
  firewall: flag("refuse connections to this host, except to ssh and to the server"),
};

export interface SetupInput extends AcmeInput {
  readonly role?: string | undefined;
  readonly join?: string | undefined;
  readonly dataDisk?: string | undefined;
  readonly listen?: string | undefined;
  readonly port?: number | undefined;
  readonly domain?: string | undefined;
  readonly tlsCert?: string | undefined;
  readonly tlsKey?: string | undefined;
  readonly firewall: boolean;
}

/** Returns a message about an invalid combination. */
export function checkSetupInput(input: SetupInput): string | undefined {
  const { role, join, dataDisk, port, domain, tlsCert, tlsKey } = input;
  if (role !== undefined && !isRole(role)) return `--role must be ${roles.join(", ")}`;
  if (join !== undefined && !/^https:\/\/./.test(join)) return "--join must begin with https://";
  if (join !== undefined && role !== undefined && role !== "worker") return "only a worker joins: --role worker";
  if (port !== undefined && (port < 1 || port > 65_535)) return "--port must be from 1 to 65535";
  if ((tlsCert === undefined) !== (tlsKey === undefined)) return "--tls-cert and --tls-key belong together";
  const acmeProblem = checkAcmeInput(input);
  if (acmeProblem !== undefined) return acmeProblem;
  if (input.acmeEmail !== undefined && tlsCert !== undefined)
    return "--acme-email gets the certificate: omit --tls-cert";
  if (input.acmeEmail !== undefined && domain === undefined) return "--acme-email needs --domain";
  for (const file of [tlsCert, tlsKey]) {
    if (file !== undefined && !file.startsWith("/"))
      return `${file} must be an absolute path: the service has no working directory`;
  }
  if (dataDisk !== undefined && !/^(auto|none|\/dev\/[\w./-]+)$/.test(dataDisk)) {
    return "--data-disk takes auto, none or a device such as /dev/sdc";
  }
  return undefined;
}

/** The choices that the command line names. The others stay as the last set-up made them. */
export function optionsFrom(input: SetupInput): Partial<HostOptions> {
  const { role, join, dataDisk, listen, port, domain, tlsCert, tlsKey, firewall } = input;
  const acme = acmeFrom(input);
  const settings = {
    OPENSANDBOX_HOST: listen,
    OPENSANDBOX_PORT: port?.toString(),
    OPENSANDBOX_SANDBOX_DOMAIN: domain,
    OPENSANDBOX_TLS_CERT: tlsCert,
    OPENSANDBOX_TLS_KEY: tlsKey,
    ...(acme === undefined ? {} : certificateSettings),
  };
  return {
    ...(role !== undefined && isRole(role) ? { role } : {}),
    ...(join === undefined ? {} : { join }),
    ...(dataDisk === undefined ? {} : { dataDisk }),
    ...(firewall ? { firewall } : {}),
    ...(acme === undefined ? {} : { acme }),
    settings: Object.fromEntries(
      Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
    ),
  };
}

function isRole(text: string): text is Role {
  return (roles as readonly string[]).includes(text);
}
