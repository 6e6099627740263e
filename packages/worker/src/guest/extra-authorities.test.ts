import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { makeTestAuthority } from "#network/testing/test-authority.ts";
import { readExtraAuthorities } from "./extra-authorities.ts";

test("extra authorities are certificates alone, and the error of any other file says what is wrong", async (t) => {
  const directory = await mkdtemp(join(tmpdir(), "osb-extra-ca-"));
  t.after(() => rm(directory, { recursive: true }));
  const file = join(directory, "ca.pem");
  const [one, other] = [await makeTestAuthority("one"), await makeTestAuthority("other")];
  const read = async (content: string) => {
    await writeFile(file, content);
    return await readExtraAuthorities(file);
  };
  const found = await read(`# the proxy\r\n${one.certificate}\n\n${other.certificate}`);
  assert.equal(found.count, 2);
  assert.match(found.certificates, /^(-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n){2}$/);

  for (const [content, why] of [
    ["", /ca\.pem has no certificate: write certificates as PEM$/],
    [one.certificate + one.privateKey, /has a PRIVATE KEY in block 2: it may have certificates alone$/],
    [one.certificate.slice(0, 200), /has a certificate that cannot be parsed in block 1: /],
    [one.certificate.replaceAll(/[A-Za-z]{8}\n/g, "AAAAAAAA\n"), /cannot be parsed in block 1: /],
    ["x".repeat(64 * 1024 + 1), /is larger than 64 KiB/],
  ] as const) {
    await assert.rejects(read(content), { code: "invalid_argument", message: why });
  }
  await assert.rejects(readExtraAuthorities(join(directory, "none")), { message: /^OPENSANDBOX_EXTRA_CA: .*ENOENT/ });
  await assert.rejects(readExtraAuthorities(directory), { message: /cannot be read: EISDIR/ });
});
