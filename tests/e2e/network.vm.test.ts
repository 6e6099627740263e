import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { request as startRequest } from "node:http";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import { eventually, within } from "@opensandbox/wire/testing/eventually.ts";
import { readEntries } from "../../packages/worker/src/machine/journal.ts";
import { answerOf } from "./answer-of.ts";
import { startWorld, type World } from "./world.ts";

/** A minimal server with a backlog for every client at once; the kernel refuses connections beyond the backlog. */
const serve = `
import asyncio
async def answer(reader, writer):
  await reader.readuntil(b"\\r\\n\\r\\n")
  writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 12\\r\\nConnection: close\\r\\n\\r\\nfrom inside\\n")
  await writer.drain()
  writer.close()
async def main():
  server = await asyncio.start_server(answer, "127.0.0.1", 8000, backlog=1024)
  await server.serve_forever()
asyncio.run(main())
`;

const skip = process.getuid?.() === 0 ? false : "network namespaces need root";

// packages/worker/src/network tests the rules packet by packet; this file shows that a real guest is behind them.
suite("the network of a machine", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let world: World;
  let sandbox: Sandbox;

  before(async () => {
    world = stack.use(await startWorld());
    sandbox = await Sandbox.create({ template: "minimal", apiUrl: world.url, apiKey: world.apiKey });
  });
  after(() => stack.disposeAsync());

  async function run(command: string): Promise<string> {
    const { stdout, stderr } = await sandbox.commands.run(command, { timeout: 120 });
    return (stdout + stderr).trim();
  }

  /** The outcome of a TCP connection by the guest's root. */
  function tcp(address: string, port: number): Promise<string> {
    const program = [
      "import socket, sys",
      "try:",
      "  s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5); print('reached')",
      "except Exception as e: print(type(e).__name__)",
    ].join("\n");
    return run(`sudo python3 -c "${program}" ${address} ${port}`);
  }

  async function setNetwork(body: object): Promise<void> {
    const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/network`, {
      method: "PUT",
      headers: { "X-API-Key": world.apiKey },
      body: JSON.stringify(body),
    });
    assert.equal(response.status, 200, await response.text());
  }

  test("names resolve, and their addresses are reachable", async () => {
    assert.match(await run("getent ahostsv4 deb.debian.org"), /^\d+\.\d+\.\d+\.\d+/);
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
  });

  test("a guest reaches neither the host nor its API, at any address of the host", async () => {
    const server = createServer((socket) => socket.end("reached"));
    server.listen(0, "0.0.0.0");
    await within("the server listens", once(server, "listening"));
    stack.defer(() => void server.close());
    const { port } = server.address() as AddressInfo;
    const addresses = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      .filter(({ family, internal }) => family === "IPv4" && !internal)
      .map(({ address }) => address);
    assert.ok(addresses.length > 0);
    for (const address of new Set(addresses)) assert.equal(await tcp(address, port), "ConnectionRefusedError", address);
    assert.equal(await tcp("10.0.2.2", port), "ConnectionRefusedError");
  });

  test("a guest reaches no private address, no other name server, and nothing by IPv6", async () => {
    assert.equal(await tcp("10.1.2.3", 80), "ConnectionRefusedError");
    assert.equal(await tcp("192.168.1.1", 80), "ConnectionRefusedError");
    assert.equal(await tcp("8.8.8.8", 53), "ConnectionRefusedError");
    assert.match(await tcp("2001:db8::1", 80), /OSError|Timeout/);
    const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/network/log`, {
      headers: { "X-API-Key": world.apiKey },
    });
    const refusals = (await response.json()) as { address?: string; port?: number }[];
    assert.ok(refusals.some(({ address, port }) => address === "8.8.8.8" && port === 53));
  });

  test("the metadata service identifies the machine that asks", async () => {
    const status = JSON.parse(await run("curl -sS http://169.254.169.254/v1/status")) as { sandboxId: string };
    assert.equal(status.sandboxId, sandbox.sandboxId);
    const limits = JSON.parse(await run("curl -sS http://169.254.169.254/v1/limits")) as Record<string, number>;
    assert.ok((limits["memUsage"] ?? 0) > 0 && (limits["pids"] ?? 0) > 0);
  });

  test("the metadata service grants a request for memory within its owner's limits", async () => {
    const ask = (memoryMB: number) =>
      run(`curl -sS -X POST -d '{"memoryMB":${memoryMB}}' http://169.254.169.254/v1/scale`);
    const began = Number(await run("awk '/^MemTotal/ { print $2 }' /proc/meminfo"));
    const grown = JSON.parse(await ask(2048)) as object;
    assert.deepEqual(grown, { sandboxID: sandbox.sandboxId, memoryMB: 2048, cpuPercent: 100, ok: true });
    assert.ok(Number(await run("awk '/^MemTotal/ { print $2 }' /proc/meminfo")) > began + 900 * 1024);
    assert.match(await run("curl -sS http://169.254.169.254/v1/limits"), /"memLimit":2147483648/);
    assert.match(await ask(1_000_000), /memoryMB must be a multiple of 128 from 256 to 65536/);
    assert.match(await ask(1024), /"ok":true/);
  });

  test("an allow list is enforced, and a network that is off reaches nothing", async () => {
    await setNetwork({ egress: { allow: ["deb.debian.org"] } });
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
    assert.match(await run("curl -sSI http://security.debian.org/ || true"), /Could not resolve host/);
    assert.match(
      await run(
        "A=$(getent ahostsv4 deb.debian.org | cut -d' ' -f1 | head -1); curl -sSI --resolve other.example:80:$A http://other.example/ | head -1",
      ),
      /403 Forbidden/,
    );
    await setNetwork({ networkEnabled: false });
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ || true"), /Could not resolve host/);
    await setNetwork({ networkEnabled: true, egress: {} });
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
  });

  test("a server on the guest's localhost has a preview", async () => {
    await sandbox.files.write("serve.py", serve);
    await run("setsid python3 serve.py > /dev/null 2>&1 & echo");
    await run("until curl -sf http://127.0.0.1:8000/ > /dev/null; do sleep 0.2; done");
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const request = startRequest(world.url, { headers, agent: false }).end();
    const response = await answerOf(request);
    assert.equal(response.statusCode, 200);
    assert.equal(await text(response), "from inside\n");
  });

  test("the policy applies immediately after a wake", async () => {
    await setNetwork({ egress: { allow: ["deb.debian.org"] } });
    await sandbox.hibernate();
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const request = startRequest(world.url, { headers, agent: false }).end();
    const response = await answerOf(request);
    assert.equal(await text(response), "from inside\n");
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
    assert.match(await run("curl -sSI http://security.debian.org/ || true"), /Could not resolve host/);
  });

  test("500 simultaneous requests wake a hibernated sandbox once, and all are answered", async () => {
    const generation = async (): Promise<number | undefined> =>
      (await readEntries(world.config.dataDirectory))[0]?.sandbox?.generation;
    const before = (await generation()) ?? assert.fail("no machine runs");
    await sandbox.hibernate();
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const ask = async (): Promise<string> => {
      const request = startRequest(world.url, { headers, agent: false }).end();
      const response = await answerOf(request);
      return `${response.statusCode} ${await text(response)}`;
    };
    const answers = await Promise.all(Array.from({ length: 500 }, ask));
    assert.deepEqual(new Set(answers), new Set(["200 from inside\n"]));
    // Every start of a machine has a number of its own.
    assert.equal(await generation(), before + 1);
  });

  suite("package managers work after a hibernation and in a fork:", () => {
    const machines: Sandbox[] = [];
    let authorities: { readonly file: string; readonly npm: string; readonly pip: string };

    before(async () => {
      const api = { apiUrl: world.url, apiKey: world.apiKey };
      const first = await Sandbox.create({ template: "base", timeout: 3600, ...api });
      machines.push(first);
      // A host behind a proxy may trust an authority that a guest does not know.
      const { NODE_EXTRA_CA_CERTS: file = "" } = process.env;
      authorities = { file, npm: file && "--cafile authorities.pem", pip: file && "--cert authorities.pem" };
      if (file !== "") await first.files.write("authorities.pem", await readFile(file));
      const { id } = await first.createCheckpoint("connected");
      const isReady = async () =>
        (await first.listCheckpoints()).some((found) => found.id === id && found.status === "ready");
      await eventually("the checkpoint is ready", isReady, { withinMs: 600_000, everyMs: 200 });
      machines.push(await Sandbox.createFromCheckpoint(id, api));
      await first.hibernate();
      await first.wake();
    });
    after(async () => {
      for (const machine of machines) await machine.kill();
    });

    /** Asserts that a command prints a positive count in every sandbox. */
    async function assertGetsSome(command: string): Promise<void> {
      const outcomes = await Promise.all(machines.map((machine) => machine.commands.run(command, { timeout: 300 })));
      for (const { stdout, stderr } of outcomes) assert.ok(Number(stdout) > 0, `${command}: ${stdout}${stderr}`);
    }

    test("apt-get update", async () => {
      await assertGetsSome("getent ahostsv4 deb.debian.org | wc -l");
      await assertGetsSome("sudo apt-get update 2>&1 | grep -cE '^(Hit|Get):'");
    });

    test("npm view", async (t) => {
      const registry = (await outputOf("npm", "config", "get", "registry")) ?? "https://registry.npmjs.org/";
      const problem = await whyNotReached(new URL("npm", registry));
      if (problem !== undefined) return t.skip(problem);
      await assertGetsSome(`npm view npm version --registry ${registry} ${authorities.npm} | cut -d. -f1`);
    });

    test("pip download", async (t) => {
      const configured = process.env["PIP_INDEX_URL"] ?? (await outputOf("pip", "config", "get", "global.index-url"));
      const index = configured ?? "https://pypi.org/simple";
      const problem = await whyNotReached(new URL(`${index.replace(/\/$/, "")}/six/`));
      if (problem !== undefined) return t.skip(problem);
      const download = `pip download -q --no-deps -d wheels --index-url ${index} ${authorities.pip} six`;
      await assertGetsSome(`rm -rf wheels; ${download} >&2; ls wheels | wc -l`);
    });
  });
});

/** The output of a program of this host. Undefined: the program is missing or fails. */
async function outputOf(file: string, ...args: readonly string[]): Promise<string | undefined> {
  try {
    const { stdout } = await promisify(execFile)(file, args);
    return stdout.trim() || undefined;
  } catch {
    return undefined;
  }
}

/** The reason why this host itself does not reach a registry, which then cannot test a machine. Undefined: it does. */
async function whyNotReached(url: URL): Promise<string | undefined> {
  try {
    const answer = await fetch(url);
    await answer.body?.cancel();
    return answer.ok ? undefined : `${url.host} answers ${answer.status} to this host`;
  } catch (error) {
    const cause = (error as { cause?: { code?: string } }).cause?.code ?? String(error);
    return `this host does not reach ${url.host}: ${cause}`;
  }
}
