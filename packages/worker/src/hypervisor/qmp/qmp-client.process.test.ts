import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test, type TestContext } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { QmpClient } from "./qmp-client.ts";

const deadline = (): AbortSignal => AbortSignal.timeout(30_000);

/** A client of a monitor that answers its first command, and the monitor's end of the connection. */
async function connected(t: TestContext): Promise<{ readonly qmp: QmpClient; readonly monitor: Socket }> {
  const directory = await mkdtemp(join(tmpdir(), "osb-qmp-"));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, "qmp.sock");
  const server = createServer().listen(path);
  t.after(() => server.close());
  await once(server, "listening", { signal: deadline() });
  const connecting = QmpClient.connect(path, deadline());
  const [monitor] = (await once(server, "connection", { signal: deadline() })) as [Socket];
  monitor.on("error", () => monitor.destroy());
  monitor.once("data", () => monitor.write('{"return":{},"id":1}\n'));
  monitor.write('{"QMP":{}}\n');
  return { qmp: await connecting, monitor };
}

suite("a monitor that sends anything but messages loses its connection, and its commands fail as unavailable", () => {
  const sent = {
    "a line that is not JSON": "{]\n",
    null: "null\n",
    "a number": "1\n",
    "an endless line": Buffer.alloc(17 * 2 ** 20, "a"),
  };
  for (const [what, bytes] of Object.entries(sent)) {
    test(what, async (t) => {
      const { qmp, monitor } = await connected(t);
      const answer = qmp.execute("query-status");
      monitor.write(bytes);
      await assert.rejects(answer, (error) => isSandboxError(error, "unavailable"));
      await qmp.closed;
    });
  }
});

test("a refusal without a description is an error of its command alone", async (t) => {
  const { qmp, monitor } = await connected(t);
  for (const error of ["null", "{}", '"text"']) {
    const answer = qmp.execute("stop");
    const [command] = (await once(monitor, "data", { signal: deadline() })) as [Buffer];
    const { id } = JSON.parse(command.toString()) as { id: number };
    monitor.write(`{"id":${id},"error":${error}}\n`);
    await assert.rejects(answer, /QEMU refuses the command stop/);
  }
  qmp[Symbol.dispose]();
});
