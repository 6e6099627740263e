import assert from "node:assert/strict";
import { createServer as createTcpServer, type AddressInfo } from "node:net";
import { createServer, type RequestListener } from "node:http";
import { test } from "node:test";
import { isPublicAddress } from "#webhooks/public-address.ts";
import { post, type PostOptions } from "./post.ts";

async function receiver(listener: RequestListener): Promise<{ readonly port: number } & AsyncDisposable> {
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

async function send(url: string, options: Partial<PostOptions> & { signal?: AbortSignal } = {}): Promise<number> {
  const { signal = AbortSignal.timeout(5000), ...others } = options;
  return await post({ url, headers: { "x-a": "b" }, body: "{}", signal }, { allowsPrivate: true, ...others });
}

test("the receiver gets headers and body, and its status is returned", async () => {
  let got: unknown;
  await using server = await receiver((request, response) => {
    let body = "";
    request.on("data", (chunk: Buffer) => (body += chunk.toString()));
    request.on("end", () => {
      got = [request.method, request.url, request.headers["x-a"], request.headers["content-length"], body];
      response.writeHead(202).end("thanks");
    });
  });
  assert.equal(await send(`http://127.0.0.1:${server.port}/hook?a=b`), 202);
  assert.deepEqual(got, ["POST", "/hook?a=b", "b", "2", "{}"]);
});

test("private, loopback and special addresses are not public, and all others are", () => {
  const refused =
    "0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.168.1.1 198.18.0.1 " +
    "203.0.113.1 224.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 fc00::1 fd12::1 " +
    "fe80::1 ff02::1 2001::1 2001:db8::1 2002:7f00:1:: 3fff::1 localhost 1.2.3";
  for (const address of refused.split(" ")) assert.equal(isPublicAddress(address), false, address);
  for (const address of ["8.8.8.8", "172.15.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450::1"]) {
    assert.equal(isPublicAddress(address), true, address);
  }
});

for (const host of ["127.0.0.1", "0x7f.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]) {
  test(`${host} is not reached, however it is written`, async () => {
    let requests = 0;
    await using server = await receiver(
      (_request, response) => void response.writeHead(200).end(String((requests += 1))),
    );
    await assert.rejects(send(`http://${host}:${server.port}/`, { allowsPrivate: false }), /has no public address/);
    assert.equal(requests, 0);
  });
}

test("a name that leads to a private address is not reached, and its private addresses are not tried", async () => {
  const resolve = async () => ["10.0.0.1", "127.0.0.1"];
  await assert.rejects(
    send("http://inside.example/", { allowsPrivate: false, resolve }),
    /inside\.example has no public/,
  );
});

test("the connection goes to the address that was checked, whatever the name leads to afterwards", async () => {
  let requests = 0;
  await using server = await receiver(
    (_request, response) => void response.writeHead(200).end(String((requests += 1))),
  );
  let lookups = 0;
  const resolve = async () => {
    lookups += 1;
    return lookups === 1 ? ["127.0.0.2"] : ["127.0.0.1"];
  };
  await assert.rejects(send(`http://rebind.example:${server.port}/`, { resolve }), /127\.0\.0\.2/);
  assert.deepEqual([lookups, requests], [1, 0]);
});

test("a redirect counts as an answer and is not followed", async () => {
  let requests = 0;
  await using inside = await receiver((_request, response) => void response.end(String((requests += 1))));
  await using server = await receiver((_request, response) => {
    response.writeHead(307, { location: `http://127.0.0.1:${inside.port}/` }).end();
  });
  assert.equal(await send(`http://127.0.0.1:${server.port}/`), 307);
  assert.equal(requests, 0);
});

test("an answer that never ends is cut off by time, and one of many gigabytes by size", async () => {
  await using endless = await receiver((_request, response) => void response.writeHead(200).write("a"));
  const begun = performance.now();
  assert.equal(await send(`http://127.0.0.1:${endless.port}/`), 200);
  assert.ok(performance.now() - begun < 4000);
  let sent = 0;
  await using flood = await receiver((_request, response) => {
    response.writeHead(200);
    const more = (): void => {
      while (!response.destroyed && response.write(Buffer.alloc(65_536))) sent += 65_536;
    };
    response.on("drain", more);
    more();
  });
  assert.equal(await send(`http://127.0.0.1:${flood.port}/`), 200);
  assert.ok(sent < 2 ** 26, `${sent} bytes were sent`);
});

test("a receiver that closes early, speaks nonsense, upgrades or is silent fails the attempt", async () => {
  await using early = await receiver((request) => void request.socket.destroy());
  await assert.rejects(send(`http://127.0.0.1:${early.port}/`), /socket hang up|ECONNRESET/);
  for (const answer of [
    "nonsense\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
  ]) {
    const server = createTcpServer((socket) =>
      socket.on("error", () => undefined).once("data", () => socket.end(answer)),
    );
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    await assert.rejects(send(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`));
    await new Promise((resolve) => server.close(resolve));
  }
  await using silent = await receiver(() => undefined);
  await assert.rejects(send(`http://127.0.0.1:${silent.port}/`, { signal: AbortSignal.timeout(100) }));
});
