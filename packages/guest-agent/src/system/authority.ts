import {
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";

/** Where the certificates are; update-ca-certificates(8) includes them when it makes the bundle again. */
const certificateFile = "/usr/local/share/ca-certificates/opensandbox.crt";

/** The authorities of the image in one file, which curl, Python, Go and Git read. */
const bundleFile = "/etc/ssl/certs/ca-certificates.crt";

/** The same file of Fedora and its relatives, and the directory that update-ca-trust(8) makes it from. */
const fedora = {
  bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
  anchors: "/etc/pki/ca-trust/source/anchors",
};

/** OpenSSL finds an authority by the hash of its subject, which every authority of OpenSandbox shares. */
const hashedLink = "/etc/ssl/certs/654170d7.0";

/**
 * Adds certificates (PEM) to the system's store, in place of those that were added before; empty: removes those.
 * @param root tests use another root directory
 */
export function trustAuthority(certificate: string, root = "/"): void {
  const at = (path: string): string => join(root, path);
  const own = at(certificateFile);
  const earlier = contentOf(own);
  const bundles = [at(bundleFile), at(fedora.bundle)].filter((bundle, index) => index === 0 || existsSync(bundle));
  const isComplete = (bundle: string): boolean => contentOf(bundle).includes(certificate);
  // Most machines wake with the authorities they had, and most have none.
  if (earlier === certificate && (certificate === "" || bundles.every(isComplete))) return;
  // Fedora has no bundle under Debian's name, which the environment of commands names.
  if (!existsSync(at(bundleFile)) && existsSync(at(fedora.bundle))) {
    mkdirSync(dirname(at(bundleFile)), { recursive: true });
    rmSync(at(bundleFile), { force: true });
    symlinkSync(at(fedora.bundle), at(bundleFile));
  }
  const files = new Set(bundles.map((bundle) => (existsSync(bundle) ? realpathSync(bundle) : bundle)));
  for (const bundle of files) {
    const others = without(without(contentOf(bundle), earlier), certificate);
    const separator = others === "" || others.endsWith("\n") ? "" : "\n";
    replace(bundle, `${others}${separator}${certificate}`);
  }
  const copies = existsSync(at(fedora.anchors)) ? [own, join(at(fedora.anchors), "opensandbox.pem")] : [own];
  const link = at(hashedLink);
  if (certificate === "") {
    for (const file of [...copies, link]) rmSync(file, { force: true });
    return;
  }
  for (const file of copies) replace(file, certificate);
  if (lstatSync(link, { throwIfNoEntry: false }) === undefined) symlinkSync(certificateFile, link);
}

/** Empty for a file that does not exist. */
function contentOf(file: string): string {
  return existsSync(file) ? readFileSync(file, "latin1") : "";
}

function without(content: string, part: string): string {
  return part === "" ? content : content.replaceAll(part, "");
}

/** A reader finds the earlier content or the new one. The file keeps its mode. */
function replace(file: string, content: string): void {
  mkdirSync(dirname(file), { recursive: true });
  const mode = statSync(file, { throwIfNoEntry: false })?.mode ?? 0o644;
  writeFileSync(`${file}.new`, content, { encoding: "latin1", mode: mode & 0o777 });
  renameSync(`${file}.new`, file);
}
