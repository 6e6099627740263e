import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import { spawnServer } from "../e2e/spawn-server.ts";

test("a combined server loads nothing of fleets", async () => {
  const modules: string[] = [];
  const preload = join(import.meta.dirname, "list-modules.ts");
  {
    await using server = await spawnServer({
      env: { OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" },
      nodeOptions: ["--import", preload],
      onLog: (line) => modules.push(line),
    });
    const call = (method: string, path: string, body?: object): Promise<Response> =>
      fetch(`${server.url}/api/sandboxes${path}`, {
        method,
        headers: { "x-api-key": server.apiKey },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    const { sandboxID } = (await (await call("POST", "", { templateID: "minimal" })).json()) as { sandboxID: string };
    assert.equal((await call("POST", `/${sandboxID}/exec/run`, { cmd: "true" })).status, 200);
  }
  const loaded = modules.filter((line) => line.startsWith("module "));
  assert.ok(
    loaded.some((line) => line.includes("/control-plane/src/index.ts")),
    "the preload lists modules",
  );
  assert.deepEqual(
    loaded.filter((line) =>
      /connectrpc|opentelemetry|open-tracer|\/src\/fleet\/|\/worker\/src\/serve\/|\/worker\/rpc\//.test(line),
    ),
    [],
  );
});
