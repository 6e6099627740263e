import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import { mkdtemp, rename, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import { within } from "@opensandbox/wire/testing/eventually.ts";
import { connectForeignSocket, openForeignPipe } from "./foreign-files.ts";

suite("files of another user", () => {
  async function directory(t: { after(undo: () => Promise<void>): void }): Promise<string> {
    const path = await mkdtemp(join(tmpdir(), "osb-foreign-"));
    t.after(() => rm(path, { recursive: true }));
    return path;
  }

  test("a socket is connected to, even if another file gets its name at once", async (t) => {
    const at = await directory(t);
    const server = createServer((socket) => socket.end("hello")).listen(join(at, "socket"));
    t.after(() => server.close());
    await once(server, "listening");
    const socket = connectForeignSocket(join(at, "socket"));
    assert.ok(socket !== undefined);
    await rename(join(at, "socket"), join(at, "moved"));
    const [data] = (await within("the greeting", once(socket, "data"))) as [Buffer];
    assert.equal(data.toString(), "hello");
    socket.destroy();
  });

  test("a link to a socket, a file and a pipe are no socket, and nothing is no error", async (t) => {
    const at = await directory(t);
    let connections = 0;
    const server = createServer(() => (connections += 1)).listen(join(at, "socket"));
    t.after(() => server.close());
    await once(server, "listening");
    await symlink(join(at, "socket"), join(at, "link"));
    await writeFile(join(at, "file"), "");
    execFileSync("mkfifo", [join(at, "pipe")]);
    for (const name of ["link", "file", "pipe"]) {
      assert.throws(
        () => connectForeignSocket(join(at, name)),
        { code: "unavailable", message: /is not a socket/ },
        name,
      );
    }
    assert.equal(connectForeignSocket(join(at, "absent")), undefined);
    assert.equal(connections, 0);
  });

  test("a socket that nothing listens on ends with an error's event", async (t) => {
    const at = await directory(t);
    const script = `import socket; socket.socket(socket.AF_UNIX).bind("${join(at, "socket")}")`;
    execFileSync("python3", ["-c", script]);
    const socket = connectForeignSocket(join(at, "socket"));
    assert.ok(socket !== undefined);
    const [error] = (await within(
      "the refusal",
      once(socket, "error").catch((error: unknown) => [error]),
    )) as [Error];
    assert.match(String(error), /ECONNREFUSED/);
  });

  test("a pipe is opened, and a link to it and a file are not", async (t) => {
    const at = await directory(t);
    execFileSync("mkfifo", [join(at, "pipe")]);
    closeSync(openForeignPipe(join(at, "pipe")));
    await symlink(join(at, "pipe"), join(at, "link"));
    await writeFile(join(at, "file"), "");
    assert.throws(() => openForeignPipe(join(at, "link")), { code: "ELOOP" });
    assert.throws(() => openForeignPipe(join(at, "file")), { code: "unavailable", message: /is not a pipe/ });
  });
});
