import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlobServiceClient } from "@azure/storage-blob";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { openObjectStore } from "./open-object-store.ts";
import { startFaultyProxy } from "./testing/faulty-proxy.ts";
import { objectStoreContract, testTuning } from "./testing/object-store-contract.ts";

/** Only ./test installs the servers. */
const servers = join(import.meta.dirname, "../../../../tools/object-servers/node_modules");
const skip = existsSync(servers)
  ? false
  : "the servers of tools/object-servers are not installed: ./test installs them";
const s3rver = join(servers, "@20minutes/s3rver");

/** The accounts that Azurite and s3rver know. */
const azuriteKey = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
process.env["AWS_ACCESS_KEY_ID"] = "S3RVER";
process.env["AWS_SECRET_ACCESS_KEY"] = "S3RVER";

objectStoreContract("an object store in S3 (s3rver)", { hasServer: true, skip }, async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await temporaryDirectory(undo);
  const port = await freePort();
  // s3rver computes another signature for lists than the SDK does.
  const lenient = { silent: true, allowMismatchedSignatures: true };
  const options = { ...lenient, address: "127.0.0.1", port, directory, configureBuckets: [{ name: "bucket" }] };
  const program = `new (require(${JSON.stringify(s3rver)}))(${JSON.stringify(options)}).run()`;
  await startServer(undo, ["--eval", program], port);
  const proxy = undo.use(await startFaultyProxy(`http://127.0.0.1:${port}`));
  const url = `s3://bucket/some/prefix?endpoint=${proxy.url}&region=us-east-1`;
  const store = await openObjectStore({ url }, testTuning);
  const owned = undo.move();
  return { store, proxy, [Symbol.asyncDispose]: () => owned.disposeAsync() };
});

objectStoreContract("an object store in Azure Blob (Azurite)", { hasServer: true, skip }, async () => {
  await using undo = new AsyncDisposableStack();
  const directory = await temporaryDirectory(undo);
  const port = await freePort();
  const main = join(servers, "azurite/dist/src/blob/main.js");
  const listen = ["--blobHost", "127.0.0.1", "--blobPort", `${port}`];
  const quiet = ["--silent", "--skipApiVersionCheck", "--disableTelemetry"];
  await startServer(undo, [main, ...listen, "--location", directory, ...quiet], port);
  const connectTo = (url: string): string =>
    `DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=${azuriteKey};BlobEndpoint=${url}/devstoreaccount1;`;
  const direct = BlobServiceClient.fromConnectionString(connectTo(`http://127.0.0.1:${port}`));
  await direct.createContainer("container");
  const proxy = undo.use(await startFaultyProxy(`http://127.0.0.1:${port}`));
  const place = { url: "azblob://container/some/prefix", azureConnectionString: connectTo(proxy.url) };
  const store = await openObjectStore(place, testTuning);
  const owned = undo.move();
  return { store, proxy, [Symbol.asyncDispose]: () => owned.disposeAsync() };
});

async function temporaryDirectory(undo: AsyncDisposableStack): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "osb-objects-"));
  undo.defer(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** Starts a server of Node and waits until it accepts connections. */
async function startServer(undo: AsyncDisposableStack, argv: readonly string[], port: number): Promise<void> {
  const child: ChildProcess = spawn(process.execPath, argv, { stdio: ["ignore", "pipe", "pipe"] });
  let said = "";
  for (const stream of [child.stdout, child.stderr]) stream?.on("data", (data) => (said += String(data)));
  const exited = once(child, "exit");
  undo.defer(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  await eventually(
    `a server answers on port ${port}`,
    async () => {
      assert.equal(child.exitCode, null, said);
      return await fetch(`http://127.0.0.1:${port}/`).then(
        () => true,
        () => false,
      );
    },
    { withinMs: 60_000, everyMs: 100 },
  );
}

async function freePort(): Promise<number> {
  const probe = createServer();
  probe.listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  return typeof address === "object" && address !== null ? address.port : assert.fail("no port");
}
