import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, suite, test } from "node:test";
import { type ErrorCode, isSandboxError } from "@opensandbox/wire/errors.ts";
import { readImageManifest } from "./image-manifest.ts";
import type { RegistrySettings } from "./registries.ts";
import { Repository } from "./registry.ts";
import { FakeRegistry } from "./testing/fake-registry.ts";
import { type Blob, descriptorOf, digest, imageOf, indexOf, tarOf, type TestImage } from "./testing/layers.ts";

suite("the client of registries", () => {
  const { signal } = new AbortController();
  const image = imageOf([
    { tar: tarOf([{ path: "a", content: "a" }]) },
    { tar: tarOf([{ path: "b" }]), form: "tar+zstd" },
  ]);
  let registry: FakeRegistry;
  let directory: string;

  beforeEach(async () => {
    registry = await FakeRegistry.start();
    directory = await mkdtemp(join(tmpdir(), "osb-registry-"));
  });
  afterEach(async () => {
    await registry[Symbol.asyncDispose]();
    await rm(directory, { recursive: true });
  });

  function repository(more: Partial<RegistrySettings> = {}): Repository {
    const settings = { allowed: [registry.host], mirrors: { [registry.host]: `http://${registry.host}` }, ...more };
    return new Repository(settings, { registry: registry.host, repository: "a/b" });
  }

  test("an image is found by its tag, and for this platform among several", async () => {
    const other = imageOf([{ tar: tarOf([]) }], {}, { os: "linux", architecture: "arm64" });
    const index = indexOf([
      [other, { os: "linux", architecture: "arm64" }],
      [image, { os: "linux", architecture: "amd64" }],
    ]);
    registry.add("a/b:1", { manifest: index, blobs: [] }, image, other);
    const { digest: found, layers } = await readImageManifest(repository(), "1", signal);
    assert.equal(found, digest(image.manifest.bytes));
    assert.deepEqual(
      layers.map(({ compression }) => compression),
      ["gzip", "zstd"],
    );
  });

  test("a token is fetched with the operator's credentials, and goes to the registry alone", async () => {
    registry.add("a/b:1", image);
    await using store = await FakeRegistry.start();
    store.add("a/b:1", image);
    const credentialsFile = join(directory, "config.json");
    const auth = Buffer.from("user:secret").toString("base64");
    await writeFile(credentialsFile, JSON.stringify({ auths: { [registry.host]: { auth } } }));
    registry.interfere = ({ url = "", headers }, response) => {
      if (url.startsWith("/token")) {
        assert.equal(headers.authorization, `Basic ${auth}`);
        assert.equal(new URL(url, "http://x").searchParams.get("scope"), "repository:a/b:pull");
        response.end(JSON.stringify({ token: "t0ken" }));
        return true;
      }
      if (headers.authorization !== "Bearer t0ken") {
        const challenge = `Bearer realm="http://${registry.host}/token",service="s"`;
        response.writeHead(401, { "www-authenticate": challenge }).end();
        return true;
      }
      if (!url.includes("/blobs/")) return false;
      response.writeHead(307, { location: `http://${store.host}${url}` }).end();
      return true;
    };
    const from = repository({ credentialsFile });
    const { layers } = await readImageManifest(from, "1", signal);
    const [layer] = layers;
    assert.ok(layer);
    await from.download(layer, join(directory, "layer"), () => undefined, signal);
    assert.equal(digest(await readFile(join(directory, "layer"))), layer.digest);
    assert.ok(store.requests.length > 0 && store.requests.every(({ authorization }) => authorization === undefined));
  });

  test("a transfer that is cut off goes on where it stopped, and one that fails is repeated", async () => {
    const blob: Blob = { mediaType: "application/octet-stream", bytes: randomBytes(300_000) };
    registry.add("a/b:1", { ...image, blobs: [blob] });
    let failures = 0;
    registry.interfere = ({ headers: { range } }, response) => {
      failures += 1;
      const from = Number(/\d+/.exec(range ?? "")?.[0] ?? 0);
      if (failures === 1) {
        response.writeHead(503, { "retry-after": "0" }).end();
        return true;
      }
      if (failures > 3) return false;
      response.writeHead(range === undefined ? 200 : 206, { "content-length": blob.bytes.length - from });
      response.write(blob.bytes.subarray(from, from + 100_000), () => response.destroy());
      return true;
    };
    let bytes = 0;
    await repository().download(descriptorOf(blob), join(directory, "blob"), (more) => (bytes += more), signal);
    assert.equal(bytes, blob.bytes.length);
    assert.ok((await readFile(join(directory, "blob"))).equals(blob.bytes));
    assert.ok(registry.requests.some(({ range }) => range !== undefined));
  });

  test("a registry that ignores ranges sends all of it again", async () => {
    const blob: Blob = { mediaType: "application/octet-stream", bytes: randomBytes(200_000) };
    let requests = 0;
    registry.interfere = (_, response) => {
      requests += 1;
      response.writeHead(200, { "content-length": blob.bytes.length });
      if (requests === 1) response.write(blob.bytes.subarray(0, 50_000), () => response.destroy());
      else response.end(blob.bytes);
      return true;
    };
    await repository().download(descriptorOf(blob), join(directory, "blob"), () => undefined, signal);
    assert.ok((await readFile(join(directory, "blob"))).equals(blob.bytes));
  });

  const refusals: Readonly<Record<string, readonly [ErrorCode, FakeRegistry["interfere"]]>> = {
    "a manifest of another digest": ["invalid_argument", (_, response) => answer(response, "{}")],
    "an answer that does not end": ["invalid_argument", (_, response) => answer(response, "x".repeat(5 * 2 ** 20))],
    "an image that is not there": ["not_found", (_, response) => status(response, 404)],
    "an image that is someone else's": ["permission_denied", (_, response) => status(response, 403)],
    "a redirect to a file": ["invalid_argument", (_, response) => redirect(response, "file:///etc/passwd")],
    "redirects without an end": ["invalid_argument", ({ url = "" }, response) => redirect(response, url)],
    "a token from a file": [
      "invalid_argument",
      (_, response) => status(response, 401, { "www-authenticate": 'Bearer realm="file:///etc/passwd"' }),
    ],
    "a challenge of an unknown kind": [
      "permission_denied",
      (_, response) => status(response, 401, { "www-authenticate": "Negotiate" }),
    ],
  };
  for (const [what, [code, interfere]] of Object.entries(refusals)) {
    test(`${what} ends as ${code}`, async () => {
      registry.interfere = interfere;
      await assert.rejects(repository().manifest(`sha256:${"0".repeat(64)}`, signal), (error) =>
        isSandboxError(error, code),
      );
    });
  }

  test("a blob that is longer than announced, or another one, is refused", async () => {
    const blob: Blob = { mediaType: "application/octet-stream", bytes: Buffer.from("right") };
    for (const [index, sent] of ["right and more", "wrong"].entries()) {
      registry.interfere = (_, response) => answer(response, sent);
      const download = repository().download(descriptorOf(blob), join(directory, `${index}`), () => undefined, signal);
      await assert.rejects(download, (error) => isSandboxError(error, "invalid_argument"));
    }
  });

  test("a registry that the operator does not allow is never asked", () => {
    assert.throws(() => repository({ allowed: ["docker.io"] }), /adds the name to OPENSANDBOX_REGISTRIES/);
    assert.deepEqual(registry.requests, []);
  });

  const documents: Readonly<Record<string, TestImage>> = {
    "an image for another platform": imageOf([], {}, { os: "windows", architecture: "amd64" }),
    "a configuration without its layers": withConfig({ os: "linux", architecture: "amd64", rootfs: { diff_ids: [] } }),
    "a configuration that is a list": withConfig([]),
    "an environment that is a number": imageOf([], { Env: 7 }),
    "a manifest of version 1": { manifest: json({ schemaVersion: 1, fsLayers: [] }), blobs: [] },
    "a manifest that is text": { manifest: { mediaType: "text/html", bytes: Buffer.from("<html>") }, blobs: [] },
    "a manifest whose layer has no digest": {
      manifest: json({ schemaVersion: 2, layers: [{ mediaType: "x", digest: "sha256:..", size: 1 }], config: {} }),
      blobs: [],
    },
    "an index without this platform": {
      manifest: indexOf([
        [image, { os: "linux", architecture: "arm64" }],
        [image, { os: "linux", architecture: "s390x" }],
      ]),
      blobs: [],
    },
  };
  for (const [what, document] of Object.entries(documents)) {
    test(`${what} is refused with words`, async () => {
      registry.add("a/b:1", document);
      await assert.rejects(readImageManifest(repository(), "1", signal), (error) => {
        assert.ok(isSandboxError(error, "invalid_argument"), String(error));
        return error.message.startsWith("the image cannot be used: ");
      });
    });
  }

  function withConfig(config: unknown): TestImage {
    const blob = json(config);
    const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar", bytes: tarOf([]) };
    return {
      manifest: json({ schemaVersion: 2, config: descriptorOf(blob), layers: [descriptorOf(layer)] }),
      blobs: [blob, layer],
    };
  }
});

function json(value: unknown): Blob {
  return { mediaType: "application/json", bytes: Buffer.from(JSON.stringify(value)) };
}

type Response = Parameters<FakeRegistry["interfere"]>[1];

function answer(response: Response, body: string): true {
  response.end(body);
  return true;
}

function status(response: Response, code: number, headers: Readonly<Record<string, string>> = {}): true {
  response.writeHead(code, headers).end();
  return true;
}

function redirect(response: Response, location: string): true {
  return status(response, 302, { location });
}
