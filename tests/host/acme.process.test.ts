import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import { chmod, mkdtemp, readFile, rm, stat, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";

// Debian's package is named pebble.

const source = resolve(import.meta.dirname, "../../packages/cli/src/commands/host/acme/obtain-certificate.ts");
const system = resolve(import.meta.dirname, "../../packages/cli/src/commands/host/system.ts");
const dnsServer = "pebble-challtestsrv";
const installed = ["pebble", dnsServer, "openssl", "curl"].every(
  (name) => spawnSync("sh", ["-c", `command -v ${name}`]).status === 0,
);

/** Both servers start within a second on an idle host. */
const startMs = 120_000;

/** Gets a certificate in a process of its own: Node reads further authorities only when it starts. */
const program = `
const [root, hook, directory] = process.argv.slice(1);
const { System } = await import(${JSON.stringify(system)});
const { obtainCertificate } = await import(${JSON.stringify(source)});
const request = { system: new System({ root }), domain: "sandboxes.example.com", email: "me@example.com", hook, directory };
const options = { ...request, note: console.error, recordMs: 100 };
console.log(await obtainCertificate(options, AbortSignal.timeout(150_000)));
`;

test(
  "a certificate of a domain and its names is got from an ACME server by DNS records, and kept while it is good",
  { skip: !installed && "pebble is not installed", timeout: 600_000 },
  async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-acme-"));
    const children: ChildProcess[] = [];
    t.after(async () => {
      for (const child of children) child.kill("SIGKILL");
      await rm(directory, { recursive: true });
    });
    const file = (name: string): string => join(directory, name);
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    const newKey = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    const files = ["-keyout", file("acme-key.pem"), "-out", file("acme.pem")];
    assert.equal(spawnSync("openssl", ["req", ...newKey, ...subject, ...files]).status, 0);
    const [acme, management, dns, records] = await Promise.all([freePort(), freePort(), freePort(), freePort()]);
    const pebble = {
      listenAddress: `127.0.0.1:${acme}`,
      managementListenAddress: `127.0.0.1:${management}`,
      certificate: file("acme.pem"),
      privateKey: file("acme-key.pem"),
      httpPort: 5002,
      tlsPort: 5001,
    };
    await writeFile(file("pebble.json"), JSON.stringify({ pebble }));
    // Pebble 2.4, which Debian 12 has, serves no DNS over HTTPS.
    const offered = spawnSync(dnsServer, ["-help"], { encoding: "utf8" }).stderr;
    const unused = ["-http01", "-https01", "-tlsalpn01", "-doh"].filter((option) => offered.includes(`${option} `));
    const none = unused.flatMap((option) => [option, ""]);
    const start = (name: string, args: readonly string[]): void => {
      const env = { ...process.env, PEBBLE_VA_NOSLEEP: "1" };
      children.push(spawn(name, args, { env, stdio: "ignore" }));
    };
    start(dnsServer, ["-dns01", `127.0.0.1:${dns}`, "-management", `127.0.0.1:${records}`, ...none]);
    start("pebble", ["-config", file("pebble.json"), "-dnsserver", `127.0.0.1:${dns}`]);
    const hook = `#!/bin/sh
echo "$@" >>${file("hook.log")}
[ "$1" = set ] || exit 0
exec curl --fail --silent --data "{\\"host\\": \\"$2.\\", \\"value\\": \\"$3\\"}" http://127.0.0.1:${records}/set-txt
`;
    await writeFile(file("hook"), hook);
    await chmod(file("hook"), 0o755);
    const accept = async (): Promise<boolean> => {
      for (const port of [acme, records])
        if (spawnSync("curl", ["-sk", `https://127.0.0.1:${port}/`]).status === 7) return false;
      return await Promise.resolve(true);
    };
    await eventually("both servers accept connections", accept, { withinMs: startMs, everyMs: 200 });
    const obtain = async (): Promise<string> => {
      const flags = ["--disable-warning=ExperimentalWarning", "--input-type=module", "--eval", program];
      const args = [...flags, file("root"), file("hook"), `https://127.0.0.1:${acme}/dir`];
      const env = { ...process.env, NODE_EXTRA_CA_CERTS: file("acme.pem") };
      const child = spawn(process.execPath, args, { env, stdio: ["ignore", "pipe", "pipe"] });
      const [out, problem, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, "close")]);
      assert.equal(code, 0, problem);
      return out.trim();
    };
    assert.equal(await obtain(), "true");
    const chain = await readFile(file("root/var/lib/opensandbox/tls/chain.pem"), "utf8");
    const certificate = new X509Certificate(chain);
    assert.ok(certificate.checkHost("sandboxes.example.com") && certificate.checkHost("any.sandboxes.example.com"));
    const key = file("root/var/lib/opensandbox/tls/key.pem");
    assert.equal((await stat(key)).mode & 0o777, 0o600);
    assert.ok(certificate.checkPrivateKey((await import("node:crypto")).createPrivateKey(await readFile(key))));
    const log = (await readFile(file("hook.log"), "utf8")).trim().split("\n");
    const of = (verb: string): string[] =>
      log
        .filter((line) => line.startsWith(`${verb} `))
        .map((line) => line.slice(verb.length))
        .toSorted();
    assert.equal(of("set").length, 2);
    assert.deepEqual(of("clear"), of("set"));
    assert.equal(await obtain(), "false");
    assert.equal(await readFile(file("root/var/lib/opensandbox/tls/chain.pem"), "utf8"), chain);
  },
);

async function freePort(): Promise<number> {
  const probe = createServer();
  probe.listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, "close");
  return port;
}
