import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { request as startRequest, type IncomingMessage } from "node:http";
import { text } from "node:stream/consumers";
import { startWorld, type World } from "./world.ts";

const skip = process.getuid?.() === 0 ? false : "network namespaces need root";

// What the rules do is shown packet by packet in packages/worker/src/network; this shows that a real guest is behind them.
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

  /** As root of the guest: what a TCP connection comes to. */
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

  test("names are resolved, and what they lead to is reached", async () => {
    assert.match(await run("getent ahostsv4 deb.debian.org"), /^\d+\.\d+\.\d+\.\d+/);
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
  });

  test("neither the host nor its API is, at any address of the host", async () => {
    const server = createServer((socket) => socket.end("reached"));
    server.listen(0, "0.0.0.0");
    await once(server, "listening");
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

  test("nor a private address, nor a name server of its own, nor anything by IPv6", async () => {
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

  test("the metadata service knows whose machine it is", async () => {
    const status = JSON.parse(await run("curl -sS http://169.254.169.254/v1/status")) as { sandboxId: string };
    assert.equal(status.sandboxId, sandbox.sandboxId);
    const limits = JSON.parse(await run("curl -sS http://169.254.169.254/v1/limits")) as Record<string, number>;
    assert.ok((limits["memUsage"] ?? 0) > 0 && (limits["pids"] ?? 0) > 0);
  });

  test("a list of names is held to, and off is off", async () => {
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

  test("a server on its localhost has a preview", async () => {
    await run("mkdir -p /tmp/site && echo from inside > /tmp/site/index.html");
    await run("cd /tmp/site && setsid python3 -m http.server --bind 127.0.0.1 8000 > /dev/null 2>&1 & echo");
    await run("until curl -sf http://127.0.0.1:8000/ > /dev/null; do sleep 0.2; done");
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const request = startRequest(world.url, { headers, agent: false }).end();
    const [response] = (await once(request, "response")) as [IncomingMessage];
    assert.equal(response.statusCode, 200);
    assert.equal(await text(response), "from inside\n");
  });

  test("after a sleep the same holds, at once", async () => {
    await setNetwork({ egress: { allow: ["deb.debian.org"] } });
    await sandbox.hibernate();
    const headers = { host: sandbox.getPreviewDomain(8000) };
    const request = startRequest(world.url, { headers, agent: false }).end();
    const [response] = (await once(request, "response")) as [IncomingMessage];
    assert.equal(await text(response), "from inside\n");
    assert.match(await run("curl -sSI http://deb.debian.org/debian/ | head -1"), /^HTTP\/1\.1 /);
    assert.match(await run("curl -sSI http://security.debian.org/ || true"), /Could not resolve host/);
  });
});
