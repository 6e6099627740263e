import assert from "node:assert/strict";
import { createServer } from "node:http";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { openTcpListener } from "../../packages/worker/src/host/kernel/sockets.ts";
import { startFakeResolver } from "../../packages/worker/src/network/testing/fake-resolver.ts";
import { type Internet, startInternet, worldAddresses } from "../../packages/worker/src/network/testing/internet.ts";
import { inOwnHost } from "../../packages/worker/src/network/testing/own-host.ts";
import { startWorld, type World } from "./world.ts";

const { site, otherSite, private10 } = worldAddresses;

/** Starts TLS with a name at an address and prints the result. A server without TLS gives an SSLError. */
const beginTls = `
import socket, ssl, sys
address, name = sys.argv[1:]
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
  with socket.create_connection((address, 443), 20) as s: context.wrap_socket(s, server_hostname=name)
except ssl.SSLError as e: print("SSLError")
except Exception as e: print(type(e).__name__)
`;

// Everything that the allow list keeps out here exists and answers, as the first test shows.
inOwnHost(import.meta.filename, () => {
  suite("a real machine with an allow list of one name", () => {
    const stack = new AsyncDisposableStack();
    let internet: Internet;
    let world: World;
    let sandbox: Sandbox;

    before(async () => {
      internet = stack.use(await startInternet([443, 5000]));
      const zone = { "site.example": [site], "other.example": [otherSite], "trap.example": [private10] };
      stack.use(startFakeResolver(zone));
      const web = createServer(({ headers, socket }, response) =>
        response.end(`${headers.host} ${socket.localAddress}`),
      );
      web.listen({ fd: openTcpListener(internet.namespace, { address: "0.0.0.0", port: 80 }) });
      stack.defer(() => void web.close());
      world = stack.use(await startWorld());
      sandbox = await Sandbox.create({ template: "minimal", apiUrl: world.url, apiKey: world.apiKey });
    });
    after(() => stack.disposeAsync());

    async function run(command: string): Promise<string> {
      const { stdout, stderr } = await sandbox.commands.run(command, { timeout: 120 });
      return (stdout + stderr).trim();
    }

    /** The body of a page, or curl's exit code: 6 is an unknown name, 7 a refused connection. */
    const page = (url: string): Promise<string> => run(`curl -sS --max-time 60 ${url} 2>/dev/null || echo $?`);

    const tls = (address: string, name: string): Promise<string> =>
      run(`sudo python3 -c '${beginTls}' ${address} ${name}`);

    test("without a list the machine reaches every server, but no name that resolves to a private address", async () => {
      assert.equal(await page("http://site.example/"), `site.example ${site}`);
      assert.equal(await page("http://other.example/"), `other.example ${otherSite}`);
      assert.equal(await page(`http://${otherSite}/`), `${otherSite} ${otherSite}`);
      assert.equal(await tls(site, "other.example"), "SSLError");
      assert.equal(await page("http://trap.example/"), "6");
    });

    for (const when of ["at once", "after a sleep"]) {
      test(`with a list the machine reaches that name and nothing else: ${when}`, async () => {
        if (when === "after a sleep") await sandbox.hibernate();
        else await allow("site.example", "trap.example");
        assert.equal(await page("http://site.example/"), `site.example ${site}`);
        assert.equal(await tls(site, "site.example"), "SSLError");
        const seen = internet.arrivals.length;
        assert.equal(await page("http://other.example/"), "6");
        assert.equal(await page("http://trap.example/"), "6");
        assert.equal(await page(`http://${otherSite}/`), "7");
        assert.match(await page(`http://${site}/`), /does not state its host name/);
        assert.match(
          await page(`--resolve other.example:80:${site} http://other.example/`),
          /does not allow this name/,
        );
        assert.equal(await tls(site, "other.example"), "ConnectionResetError");
        assert.equal(await tls(otherSite, "site.example"), "ConnectionRefusedError");
        assert.equal(internet.arrivals.length, seen);
      });
    }

    async function allow(...names: string[]): Promise<void> {
      const response = await fetch(`${world.url}/api/sandboxes/${sandbox.sandboxId}/network`, {
        method: "PUT",
        headers: { "X-API-Key": world.apiKey },
        body: JSON.stringify({ egress: { allow: names } }),
      });
      assert.equal(response.status, 200, await response.text());
    }
  });
});
