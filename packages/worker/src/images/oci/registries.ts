import { readFile } from "node:fs/promises";
import { SandboxError } from "@opensandbox/wire/errors.ts";

/** A registry that images may be pulled from. */
export interface RegistryEndpoint {
  /** The origin that requests go to, such as `https://registry-1.docker.io`. */
  readonly origin: string;
}

export interface RegistrySettings {
  /** Host names, or `*` for every one. A pull from any other registry is refused: tenants choose the names. */
  readonly allowed: readonly string[];
  /** Origins that are asked in place of a registry, such as `docker.io` -> `http://mirror.internal:5000`. */
  readonly mirrors: Readonly<Record<string, string>>;
  /** A file in the form of Docker's config.json, whose `auths` hold the credentials of registries. */
  readonly credentialsFile?: string;
}

/** @throws `permission_denied` for a registry that is not allowed here */
export function endpointOf({ allowed, mirrors }: RegistrySettings, registry: string): RegistryEndpoint {
  if (!allowed.includes(registry) && !allowed.includes("*")) {
    throw new SandboxError(
      "permission_denied",
      `this server pulls no images from ${registry}: its operator adds the name to OPENSANDBOX_REGISTRIES ` +
        `(it allows ${allowed.join(", ")})`,
    );
  }
  const mirror = mirrors[registry];
  if (mirror !== undefined) return { origin: mirror };
  // Docker Hub's registry has another name than its images.
  return { origin: `https://${registry === "docker.io" ? "registry-1.docker.io" : registry}` };
}

/** The value of an Authorization header for `registry`; undefined when there are no credentials. */
export async function credentialsOf(
  { credentialsFile }: RegistrySettings,
  registry: string,
): Promise<string | undefined> {
  if (credentialsFile === undefined) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(await readFile(credentialsFile, "utf8"));
  } catch (cause) {
    const { message } = cause as Error;
    throw new SandboxError("unavailable", `cannot read the credentials of registries: ${message}`, { cause });
  }
  const auths = (value as { auths?: Record<string, { auth?: unknown } | undefined> } | null)?.auths ?? {};
  const names =
    registry === "docker.io" ? ["https://index.docker.io/v1/", "docker.io"] : [registry, `https://${registry}`];
  const auth = names.map((name) => auths[name]?.auth).find((entry) => typeof entry === "string");
  return auth === undefined ? undefined : `Basic ${auth}`;
}
