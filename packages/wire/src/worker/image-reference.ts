import { SandboxError } from "#errors.ts";

/** An image of a registry, such as `docker.io/library/python:3.12`. */
export interface ImageReference {
  /** Host name, with a port where one is given. */
  readonly registry: string;
  readonly repository: string;
  /** `latest` where neither a tag nor a digest is given. Absent beside a digest, which identifies the image alone. */
  readonly tag?: string;
  readonly digest?: string;
}

/** True for a name that means an image of a registry. Images with a recipe have neither of these characters. */
export function isImageReference(name: string): boolean {
  return /[/:@]/.test(name);
}

// The grammar is that of https://pkg.go.dev/github.com/distribution/reference; its limit of a repository is 255.
const host = /^(?:[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?|\[[0-9a-f:]{2,45}\])(?::\d{1,5})?$/i;
const component = "[a-z0-9]+(?:(?:\\.|_|__|-+)[a-z0-9]+)*";
const repository = new RegExp(`^${component}(?:/${component})*$`);
const tag = /^\w[\w.-]{0,127}$/;
const digest = /^sha256:[0-9a-f]{64}$/;
const maxRepositoryLength = 255;

/**
 * Reads a reference as `docker pull` does: a first component with a dot or a colon, or `localhost`, names the registry,
 * and without one the registry is Docker Hub.
 * @throws `invalid_argument`
 */
export function parseImageReference(text: string): ImageReference {
  const wrong = (what: string) =>
    new SandboxError("invalid_argument", `${JSON.stringify(text)} names no image: ${what}`);
  const [beforeDigest = "", wantedDigest, ...more] = text.split("@");
  if (more.length > 0) throw wrong('it has more than one "@"');
  if (wantedDigest !== undefined && !digest.test(wantedDigest)) {
    throw wrong('the digest after "@" must be sha256: and 64 hexadecimal digits');
  }
  const slash = beforeDigest.indexOf("/");
  const first = slash < 0 ? "" : beforeDigest.slice(0, slash);
  const hasRegistry = /[.:]/.test(first) || first === "localhost";
  const registry = hasRegistry ? first.toLowerCase() : "docker.io";
  if (!host.test(registry)) throw wrong(`${JSON.stringify(registry)} is no host name`);
  const path = hasRegistry ? beforeDigest.slice(slash + 1) : beforeDigest;
  const colon = path.lastIndexOf(":");
  const wantedTag = colon < 0 ? undefined : path.slice(colon + 1);
  if (wantedTag !== undefined && !tag.test(wantedTag)) throw wrong(`${JSON.stringify(wantedTag)} is no tag`);
  const named = colon < 0 ? path : path.slice(0, colon);
  const full = registry === "docker.io" && !named.includes("/") ? `library/${named}` : named;
  if (full.length > maxRepositoryLength || !repository.test(full)) {
    throw wrong(`${JSON.stringify(named)} is no repository, whose name has lower-case letters, digits and separators`);
  }
  if (wantedDigest !== undefined) return { registry, repository: full, digest: wantedDigest };
  return { registry, repository: full, tag: wantedTag ?? "latest" };
}

/** The one spelling of a reference, with registry and tag or digest. */
export function formatImageReference({ registry, repository: path, tag: name, digest: hash }: ImageReference): string {
  return `${registry}/${path}${hash === undefined ? `:${name}` : `@${hash}`}`;
}
