import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import dns from "node:dns";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import tls from "node:tls";
import { Sandbox } from "e2b";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { spawnServer } from "./spawn-server.ts";

const skip = spawnSync("openssl", ["version"]).status === 0 ? false : "openssl is not installed";

// Stands in for DNS and a certificate authority: names below the domain lead to this host, and the client trusts the
// server's certificate.
test("with a domain and a certificate, E2B's client needs only E2B_DOMAIN", { skip }, async (t) => {
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(join(tmpdir(), "osb-e2b-domain-"));
  stack.defer(() => rm(directory, { recursive: true }));
  const [key, cert] = [join(directory, "key.pem"), join(directory, "cert.pem")];
  const names = ["-subj", "/CN=sbx.test", "-addext", "subjectAltName=DNS:*.sbx.test,DNS:sbx.test"];
  const made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", cert];
  execFileSync("openssl", ["req", "-x509", ...names, ...made], { stdio: "ignore" });
  tls.setDefaultCACertificates([...tls.getCACertificates("default"), await readFile(cert, "utf8")]);

  const world = stack.use(
    await spawnServer({
      // A server of one command has no certificate.
      stays: true,
      env: {
        OPENSANDBOX_VM_BACKEND: "fake",
        OPENSANDBOX_ALLOW_FAKE: "1",
        OPENSANDBOX_SANDBOX_DOMAIN: "sbx.test",
        OPENSANDBOX_TLS_CERT: cert,
        OPENSANDBOX_TLS_KEY: key,
      },
    }),
  );
  const lookup = dns.lookup.bind(dns) as (...args: unknown[]) => void;
  t.mock.method(dns, "lookup", (name: string, ...rest: unknown[]) => {
    lookup(name.endsWith(".sbx.test") ? "127.0.0.1" : name, ...rest);
  });
  const domain = `sbx.test:${new URL(world.url).port}`;
  const sandbox = await Sandbox.create({ apiKey: world.apiKey, domain });
  assert.equal((await sandbox.commands.run("echo by name")).stdout, "by name\n");
  await sandbox.files.write("note", "content");
  assert.equal(await (await fetch(await sandbox.downloadUrl("note"))).text(), "content");

  const port = 20_000 + Math.floor(Math.random() * 10_000);
  const script = `require("http").createServer((_, answer) => answer.end("a server")).listen(${port}, "127.0.0.1")`;
  await sandbox.commands.run(`exec ${process.execPath} -e '${script}'`, { background: true });
  const response = await eventually("the server in the sandbox answers", async () => {
    const answer = await fetch(`https://${sandbox.getHost(port)}/`);
    return answer.status === 200 ? answer : undefined;
  });
  assert.equal(await response.text(), "a server");
  assert.equal(await sandbox.kill(), true);
});
