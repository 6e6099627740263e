import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import { publishServer } from "@opensandbox/server/server-file.ts";
import { configFile, writeConfigFile } from "./config-file.ts";
import { findServerAddress } from "./find-server-address.ts";

async function stand(t: TestContext) {
  const directory = await mkdtemp(join(tmpdir(), "osb-address-"));
  t.after(() => rm(directory, { recursive: true }));
  const env = { XDG_CONFIG_HOME: join(directory, "config"), OPENSANDBOX_DATA_DIR: join(directory, "data") };
  return { env, dataDirectory: env.OPENSANDBOX_DATA_DIR, file: configFile(env) };
}

test("options override the environment, which overrides the configuration file, which overrides a running server", async (t) => {
  const { env, file, dataDirectory } = await stand(t);
  assert.equal(await findServerAddress({}, env), undefined);

  const listener = createServer().listen(0, "127.0.0.1");
  t.after(() => listener.close());
  await new Promise((resolve) => listener.once("listening", resolve));
  const url = `http://127.0.0.1:${(listener.address() as { port: number }).port}`;
  await using _ = await publishServer(dataDirectory, { url, pid: process.pid, apiKey: "its-own" });
  const running = await findServerAddress({}, env);
  assert.deepEqual([running?.url.value, running?.apiKey?.value], [url, "its-own"]);

  await writeConfigFile(file, { apiKey: "file-key" });
  assert.equal((await findServerAddress({}, env))?.apiKey?.value, "its-own");
  await writeConfigFile(file, { apiKey: "file-key", apiUrl: "http://file" });
  assert.deepEqual(await findServerAddress({}, env), {
    url: { value: "http://file", from: file },
    apiKey: { value: "file-key", from: file },
  });

  const older = { ...env, OPENCOMPUTER_API_URL: "http://older", OPENCOMPUTER_API_KEY: "older-key" };
  assert.deepEqual(await findServerAddress({}, older), {
    url: { value: "http://older", from: "OPENCOMPUTER_API_URL" },
    apiKey: { value: "older-key", from: "OPENCOMPUTER_API_KEY" },
  });
  const newer = { ...older, OPENSANDBOX_API_URL: "http://newer" };
  assert.equal((await findServerAddress({}, newer))?.url.from, "OPENSANDBOX_API_URL");
  assert.deepEqual(await findServerAddress({ apiUrl: "http://option", apiKey: "k" }, newer), {
    url: { value: "http://option", from: "--api-url" },
    apiKey: { value: "k", from: "--api-key" },
  });
});
