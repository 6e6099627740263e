import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** Where the certificate is; update-ca-certificates(8) includes it when it makes the bundle again. */
const certificateFile = "/usr/local/share/ca-certificates/opensandbox.crt";

/** The authorities of the image in one file, which curl, Python, Go and Git read. */
const bundleFile = "/etc/ssl/certs/ca-certificates.crt";

/** OpenSSL finds an authority by the hash of its subject, which every authority of OpenSandbox shares. */
const hashedLink = "/etc/ssl/certs/654170d7.0";

/**
 * Adds an authority (PEM) to the system's store, in place of the one that was added before; empty: removes that one.
 * @param root tests use another root directory
 */
export function trustAuthority(certificate: string, root = "/"): void {
  const [own, bundle, link] = [certificateFile, bundleFile, hashedLink].map((path) => join(root, path)) as [
    string,
    string,
    string,
  ];
  const earlier = existsSync(own) ? readFileSync(own, "latin1") : "";
  const inBundle = existsSync(bundle) ? readFileSync(bundle, "latin1") : "";
  // Most machines wake with the authority they had, and most have none.
  if (earlier === certificate && (certificate === "" || inBundle.includes(certificate))) return;
  const others = earlier === "" ? inBundle : inBundle.replaceAll(earlier, "");
  const separator = others === "" || others.endsWith("\n") ? "" : "\n";
  replace(bundle, `${others}${separator}${certificate}`);
  if (certificate === "") {
    rmSync(own, { force: true });
    rmSync(link, { force: true });
    return;
  }
  replace(own, certificate);
  if (lstatSync(link, { throwIfNoEntry: false }) === undefined) symlinkSync(certificateFile, link);
}

/** A reader finds the earlier content or the new one. The file keeps its mode. */
function replace(file: string, content: string): void {
  mkdirSync(dirname(file), { recursive: true });
  const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0o644;
  writeFileSync(`${file}.new`, content, { encoding: "latin1", mode: mode & 0o777 });
  renameSync(`${file}.new`, file);
}
