import { execFile } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import { nodeName } from "@opensandbox/wire/worker/rpc/fleet-node.ts";
import { writePrivateFile } from "../private-file.ts";

/** What a node needs to be a member of a fleet. The texts are PEM. */
export interface FleetCredentials {
  /** The certificate of the fleet's authority. */
  readonly ca: string;
  /** The certificate and the key of the fleet's nodes. */
  readonly cert: string;
  readonly key: string;
  /** The secret that every call carries. */
  readonly secret: string;
}

const prefix = "osbf1.";
const run = promisify(execFile);
/** A fleet that outlives its certificates makes new ones by another `osb fleet init`. */
const validDays = "3650";

/** The file of the token in a data directory. */
export function fleetTokenFile(dataDirectory: string): string {
  return join(dataDirectory, "fleet-token");
}

/**
 * Makes an authority, and a certificate that it signs for all nodes of the fleet. The authority's key is deleted, so that
 * nothing else can be signed.
 * @throws `unavailable` when `openssl` is missing
 */
export async function makeCredentials(): Promise<FleetCredentials> {
  const directory = await mkdtemp(join(tmpdir(), "osb-fleet-"));
  const file = (name: string): string => join(directory, name);
  const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
  try {
    await openssl([
      ...["req", "-x509", ...newKey, "-keyout", file("ca-key.pem"), "-out", file("ca.pem"), "-days", validDays],
      ...["-subj", "/CN=OpenSandbox fleet", "-addext", "keyUsage=critical,keyCertSign"],
    ]);
    await openssl([
      ...["req", ...newKey, "-keyout", file("key.pem"), "-out", file("request.pem")],
      ...["-subj", `/CN=${nodeName}`],
    ]);
    await writeFile(
      file("extensions"),
      `subjectAltName=DNS:${nodeName}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=critical,CA:FALSE\n`,
    );
    await openssl([
      ...["x509", "-req", "-in", file("request.pem"), "-CA", file("ca.pem"), "-CAkey", file("ca-key.pem")],
      ...["-days", validDays, "-extfile", file("extensions"), "-out", file("cert.pem")],
    ]);
    const [ca, cert, key] = await Promise.all(
      ["ca.pem", "cert.pem", "key.pem"].map((name) => readFile(file(name), "utf8")),
    );
    return { ca: ca!, cert: cert!, key: key!, secret: randomHex(32) };
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

/** One line of text that holds the credentials. Its holder is a member of the fleet. */
export function tokenOf(credentials: FleetCredentials): string {
  return `${prefix}${Buffer.from(JSON.stringify(credentials)).toString("base64url")}`;
}

/** @throws `invalid_argument` for a text that is not a token, or is cut off */
export function parseToken(token: string): FleetCredentials {
  const text = token.trim();
  try {
    if (!text.startsWith(prefix)) throw new Error(`it does not begin with ${prefix}`);
    const parsed: unknown = JSON.parse(Buffer.from(text.slice(prefix.length), "base64url").toString("utf8"));
    if (!isCredentials(parsed)) throw new Error("a part of it is missing");
    // Reads both certificates, so that a token that was cut in the middle fails here, with a message about the token.
    if (!new X509Certificate(parsed.cert).verify(new X509Certificate(parsed.ca).publicKey)) {
      throw new Error("its certificate belongs to another authority");
    }
    return parsed;
  } catch (cause) {
    const message = `the fleet token is damaged: ${(cause as Error).message}: copy the whole line that 'osb fleet init' printed`;
    throw new SandboxError("invalid_argument", message, { cause });
  }
}

/**
 * The credentials of this node: those of the given token, or of the file in the data directory.
 * @throws `unavailable` when there is neither
 */
export async function readCredentials(dataDirectory: string, token: string | undefined): Promise<FleetCredentials> {
  if (token !== undefined) return parseToken(token);
  const file = fleetTokenFile(dataDirectory);
  try {
    return parseToken(await readFile(file, "utf8"));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
    const message = `this node belongs to no fleet: ${file} does not exist: run 'osb fleet init' on the server, and 'osb worker join' on a worker`;
    throw new SandboxError("unavailable", message, { cause });
  }
}

/** Stores the token for later starts of this node. */
export async function storeToken(dataDirectory: string, token: string): Promise<string> {
  const file = fleetTokenFile(dataDirectory);
  await writePrivateFile(file, `${token}\n`);
  return file;
}

async function openssl(args: readonly string[]): Promise<void> {
  try {
    await run("openssl", args, { timeout: 60_000 });
  } catch (cause) {
    const isMissing = (cause as NodeJS.ErrnoException).code === "ENOENT";
    const message = isMissing
      ? "openssl is not installed: install it to make the certificates of a fleet (Debian: apt-get install openssl)"
      : `openssl cannot make the certificates of the fleet: ${(cause as { stderr?: string }).stderr ?? ""}`;
    throw new SandboxError("unavailable", message, { cause });
  }
}

function isCredentials(value: unknown): value is FleetCredentials {
  if (typeof value !== "object" || value === null) return false;
  const texts = value as Record<string, unknown>;
  return ["ca", "cert", "key", "secret"].every((name) => typeof texts[name] === "string" && texts[name] !== "");
}
