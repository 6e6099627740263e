import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { trustAuthority } from "./authority.ts";

const pem = (name: string): string => `-----BEGIN CERTIFICATE-----\n${name}\n-----END CERTIFICATE-----\n`;

test("an authority is added to the system's store, replaced, and removed without a trace", (t) => {
  const root = mkdtempSync(join(tmpdir(), "authority-"));
  t.after(() => rmSync(root, { recursive: true }));
  const bundle = join(root, "etc/ssl/certs/ca-certificates.crt");
  const own = join(root, "usr/local/share/ca-certificates/opensandbox.crt");
  mkdirSync(join(root, "etc/ssl/certs"), { recursive: true });
  writeFileSync(bundle, pem("image"));

  trustAuthority("", root);
  assert.ok(!existsSync(own), "nothing is written while there is no authority");
  trustAuthority(pem("first"), root);
  trustAuthority(pem("first"), root);
  assert.equal(readFileSync(bundle, "latin1"), pem("image") + pem("first"));
  trustAuthority(pem("second"), root);
  assert.equal(readFileSync(bundle, "latin1"), pem("image") + pem("second"));
  assert.equal(readFileSync(own, "latin1"), pem("second"));
  assert.equal(
    readlinkSync(join(root, "etc/ssl/certs/654170d7.0")),
    "/usr/local/share/ca-certificates/opensandbox.crt",
  );
  trustAuthority("", root);
  assert.equal(readFileSync(bundle, "latin1"), pem("image"));
  assert.ok(!existsSync(own));
  assert.ok(!existsSync(join(root, "etc/ssl/certs/654170d7.0")));
});

test("an image without certificates gets a store with the authority alone", (t) => {
  const root = mkdtempSync(join(tmpdir(), "authority-"));
  t.after(() => rmSync(root, { recursive: true }));
  trustAuthority(pem("only"), root);
  assert.equal(readFileSync(join(root, "etc/ssl/certs/ca-certificates.crt"), "latin1"), pem("only"));
});

test("several authorities are one text, and an image of Fedora gets them in its own bundle", (t) => {
  const root = mkdtempSync(join(tmpdir(), "authority-"));
  t.after(() => rmSync(root, { recursive: true }));
  const bundle = join(root, "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem");
  const anchor = join(root, "etc/pki/ca-trust/source/anchors/opensandbox.pem");
  for (const file of [bundle, anchor]) mkdirSync(dirname(file), { recursive: true });
  mkdirSync(join(root, "etc/ssl"));
  mkdirSync(join(root, "etc/pki/tls/certs"), { recursive: true });
  symlinkSync("../pki/tls/certs", join(root, "etc/ssl/certs"));
  writeFileSync(bundle, pem("image"));
  const read = (file: string) => readFileSync(join(root, file), "latin1");

  for (const added of [pem("extra") + pem("own"), pem("extra")]) {
    trustAuthority(added, root);
    trustAuthority(added, root);
    assert.equal(readFileSync(bundle, "latin1"), pem("image") + added);
    assert.equal(read("etc/ssl/certs/ca-certificates.crt"), pem("image") + added);
    assert.equal(readFileSync(anchor, "latin1"), added);
  }
  trustAuthority("", root);
  assert.equal(readFileSync(bundle, "latin1"), pem("image"));
  assert.ok(!existsSync(anchor));
});
