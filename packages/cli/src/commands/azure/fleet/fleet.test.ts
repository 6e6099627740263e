import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import { version } from "@opensandbox/wire/version.ts";
import { runForTest } from "../../../testing/test-host.ts";
import { ArmClient } from "../resource-manager/arm-client.ts";
import { World } from "../testing/azure-world.ts";
import { FakeResourceManager, subscription } from "../testing/fake-resource-manager.ts";
import { buildImage } from "./build-image.ts";
import { createFleet, type FleetCreation } from "./create-fleet.ts";
import type { AzureFleet } from "./fleet-plan.ts";

const fleet: AzureFleet = {
  subscription,
  name: "opensandbox",
  location: "eastus",
  user: "osb",
  sshKey: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB0 test",
  sshFrom: "192.0.2.1",
  osDiskGib: 100,
  dataDiskGib: 500,
  domain: "sandboxes.example.com",
  workers: { min: 2, max: 10 },
};
const sizes = ["Standard_D48as_v6", "Standard_D4as_v6"];
const imageName = `opensandbox-image-${version.replaceAll(".", "-")}`;

/** Types of everything, and names where Azure has one such resource alone. */
const everything = [
  "A/*",
  "A/@",
  "containers/snapshots",
  "databases/opensandbox",
  "dnszones/sandboxes.example.com",
  "flexibleservers",
  "images/opensandbox-image",
  "managementpolicies/default",
  "natgateways/opensandbox-nat",
  "networkinterfaces/opensandbox-nic",
  "networksecuritygroups/opensandbox-nsg",
  "networksecuritygroups/opensandbox-workers-nsg",
  "privatednszones/opensandbox.private.postgres.database.azure.com",
  "publicipaddresses/opensandbox-ip",
  "publicipaddresses/opensandbox-nat-ip",
  "resourcegroups/opensandbox",
  "roleassignments",
  "roleassignments",
  "roleassignments",
  "secrets/database-password",
  "secrets/fleet-token",
  "secrets/master-key",
  "secrets/object-store-key",
  "secrets/tls-certificate",
  "secrets/tls-key",
  "storageaccounts",
  "userassignedidentities/opensandbox-identity",
  "vaults",
  "virtualmachines/opensandbox-vm",
  "virtualmachinescalesets/opensandbox-workers",
  "virtualnetworklinks/opensandbox",
  "virtualnetworks/opensandbox-vnet",
].toSorted();

function kinds(azure: FakeResourceManager): string[] {
  const hashed = /^(flexibleservers|roleassignments|storageaccounts|vaults)\//;
  return azure
    .names()
    .map((name) => {
      const [type = "", ...rest] = name.split("/");
      const kind = [type === "A" ? type : type.toLowerCase(), ...rest].join("/");
      return hashed.test(kind) ? (kind.split("/")[0] ?? "") : kind.replace(imageName, "opensandbox-image");
    })
    .toSorted();
}

const quiet = { note: () => undefined };

function armOf(azure: FakeResourceManager): ArmClient {
  return new ArmClient({ endpoint: azure.endpoint, token: async () => await Promise.resolve("token-of-the-test") });
}

function creationOn(azure: FakeResourceManager): FleetCreation {
  const tls = { certificate: "-----BEGIN CERTIFICATE-----", key: "-----BEGIN PRIVATE KEY-----" };
  const makeFleetToken = async (): Promise<string> => await Promise.resolve("osbf1.token");
  return { ...quiet, arm: armOf(azure), fleet, sizes, tls, makeFleetToken, pollMs: 1 };
}

function imageOn(azure: FakeResourceManager, installed: string[] = []): Parameters<typeof buildImage>[0] {
  const { domain: _, workers: __, ...host } = fleet;
  const install = async (address: string): Promise<void> => void installed.push(await Promise.resolve(address));
  return { ...quiet, arm: armOf(azure), host: { ...host, userData: "#cloud-config\n" }, sizes, install };
}

function propertiesOf(azure: FakeResourceManager, ending: string): Readonly<Record<string, unknown>> {
  return (azure.bodyOf(ending)?.["properties"] ?? {}) as Readonly<Record<string, unknown>>;
}

/** Repeats a command until no connection is cut, and returns how many were. */
async function runUntilWhole(azure: FakeResourceManager, run: () => Promise<unknown>): Promise<number> {
  for (let cuts = 0; ; cuts += 1) {
    const before = azure.cut.size;
    const error = await run().then(
      () => undefined,
      (error: unknown) => error,
    );
    if (error === undefined) return cuts;
    assert.match((error as Error).message, /cannot reach Azure/);
    assert.equal(azure.cut.size, before + 1);
  }
}

/** An Azure with the image of a fleet. */
async function startAzure(options: Parameters<typeof FakeResourceManager.start>[0] = { sizes }) {
  const azure = await FakeResourceManager.start(options);
  await buildImage(imageOn(azure), AbortSignal.timeout(30_000));
  return azure;
}

test("a creation makes every resource with the tag, and a second one changes the certificate alone", async (t) => {
  await using azure = await startAzure();
  const created = await createFleet(creationOn(azure), t.signal);
  assert.deepEqual(kinds(azure), everything);
  assert.deepEqual(
    [created.hostname, created.serverSize, created.workerSize, created.nameServers],
    [
      ...["opensandbox-11111111.eastus.cloudapp.azure.com", "Standard_D4as_v6", "Standard_D48as_v6"],
      ["ns1.azure-dns.example.", "ns2.azure-dns.example."],
    ],
  );
  for (const { body, id } of azure.resources.values()) {
    if (body["location"] !== undefined) assert.equal(body.tags?.["opensandbox"], "opensandbox", id);
  }
  const before = azure.requests.length;
  assert.deepEqual({ ...(await createFleet(creationOn(azure), t.signal)) }, created);
  const changes = azure.requests.slice(before).filter((request) => !request.startsWith("GET "));
  assert.deepEqual(
    changes.map((change) => change.split("/").at(-1)),
    ["tls-certificate", "tls-key"],
  );
});

test("workers have no public address, and no resource has a key", async (t) => {
  await using azure = await startAzure();
  await createFleet(creationOn(azure), t.signal);
  const workers = JSON.stringify(azure.bodyOf("opensandbox-workers"));
  assert.doesNotMatch(workers, /publicIP/i);
  assert.match(workers, /"securityProfile":\{"securityType":"Standard"\}/);
  assert.match(workers, /"terminateNotificationProfile":\{"enable":true,"notBeforeTimeout":"PT15M"\}/);
  const network = JSON.stringify(azure.bodyOf("opensandbox-vnet"));
  assert.match(network, /"name":"workers"[^}]*"networkSecurityGroup":\{[^}]*workers-nsg"\},"natGateway"/);
  const account = [...azure.resources.values()].find(({ type }) => type.endsWith("storageaccounts"));
  assert.equal(account?.body.properties?.["allowSharedKeyAccess"], false);
  assert.deepEqual(
    JSON.stringify(azure.bodyOf("opensandbox-workers-nsg")).match(/"securityRules":\[.*?\]/)?.[0],
    '"securityRules":[]',
  );
});

test("user data, which everyone on a host can read, names places and no secret", async (t) => {
  await using azure = await startAzure();
  await createFleet(creationOn(azure), t.signal);
  const secrets = [...azure.resources.values()].filter(({ type }) => type.endsWith("/secrets"));
  const values = secrets.map(({ body }) => String(body.properties?.["value"]));
  assert.equal(new Set(values).size, 6);
  for (const ending of ["opensandbox-vm", "opensandbox-workers"]) {
    const body = JSON.stringify(azure.bodyOf(ending));
    const userData = Buffer.from(/"customData":"([^"]+)"/.exec(body)?.[1] ?? "", "base64").toString();
    assert.match(userData, /osb azure fleet boot --role (server|worker) --vault osb/);
    for (const value of values) assert.ok(!body.includes(value) && !userData.includes(value));
  }
});

test("a creation whose connection is cut at each call continues, and the password stays the server's", async (t) => {
  await using azure = await startAzure();
  azure.cutsEach = true;
  const runs = await runUntilWhole(azure, () => createFleet(creationOn(azure), t.signal));
  assert.ok(runs > 70, `${runs} calls were cut`);
  assert.deepEqual(kinds(azure), everything);
  const server = [...azure.resources.values()].find(({ type }) => type.endsWith("/flexibleservers"));
  const password = server?.body.properties?.["administratorLoginPassword"];
  assert.equal(propertiesOf(azure, "/secrets/database-password")["value"], password);
});

test("without the image, a creation makes nothing that costs, and names the command that builds it", async (t) => {
  await using azure = await FakeResourceManager.start({ sizes });
  await assert.rejects(
    createFleet(creationOn(azure), t.signal),
    /there is no opensandbox-image-[\d-]+ yet: 'osb azure image --name opensandbox' builds it/,
  );
  assert.deepEqual(azure.names(), ["resourceGroups/opensandbox"]);
});

test("a vault that was deleted within a week is recovered, with its tag", async (t) => {
  await using azure = await startAzure();
  await createFleet(creationOn(azure), t.signal);
  const [vault] = [...azure.resources.values()].filter(({ type }) => type.endsWith("/vaults"));
  azure.resources.delete(vault?.id.toLowerCase() ?? "");
  const [, name = ""] = /\/vaults\/(.*)$/.exec(vault?.id ?? "") ?? [];
  const deleted = `/subscriptions/${subscription}/providers/Microsoft.KeyVault/locations/eastus/deletedVaults/${name}`;
  azure.add(deleted, "microsoft.keyvault/locations/deletedvaults");
  await createFleet(creationOn(azure), t.signal);
  assert.equal(propertiesOf(azure, `vaults/${name}`)["createMode"], "recover");
});

test("workers that cannot be placed are removed, and the next size is tried", async (t) => {
  const both = ["Standard_D48as_v6", "Standard_D48s_v6", "Standard_D4as_v6"];
  await using azure = await startAzure({ sizes: both, unplaceable: ["Standard_D48as_v6"] });
  const created = await createFleet({ ...creationOn(azure), sizes: both }, t.signal);
  assert.equal(created.workerSize, "Standard_D48s_v6");
});

suite("the image", () => {
  test("is captured from a machine whose parts are deleted, and a second build changes nothing", async (t) => {
    await using azure = await FakeResourceManager.start({ sizes });
    const installed: string[] = [];
    await buildImage(imageOn(azure, installed), t.signal);
    assert.deepEqual(azure.names(), [`images/${imageName}`, "resourceGroups/opensandbox"]);
    assert.deepEqual(installed, ["203.0.113.7"]);
    const before = azure.requests.length;
    await buildImage(imageOn(azure, installed), t.signal);
    assert.ok(azure.requests.slice(before).every((request) => request.startsWith("GET ")));
    assert.equal(installed.length, 1);
  });

  test("a build that is cut off at each call in turn ends with a captured image and nothing else", async (t) => {
    await using azure = await FakeResourceManager.start({ sizes });
    azure.cutsEach = true;
    const runs = await runUntilWhole(azure, () => buildImage(imageOn(azure), t.signal));
    assert.ok(runs > 30, `${runs} calls were cut`);
    assert.deepEqual(azure.names(), [`images/${imageName}`, "resourceGroups/opensandbox"]);
  });
});

suite("the commands", () => {
  test("a destruction that is cut at each call continues until nothing is left", async (t) => {
    await using world = await World.make({ sizes });
    await buildImage(imageOn(world.azure), t.signal);
    await createFleet(creationOn(world.azure), t.signal);
    world.azure.cutsEach = true;
    const destroy = async (): Promise<void> => {
      const { code, stderr } = await world.osb(["destroy", "--yes"]);
      if (code !== 0) throw new Error(stderr);
    };
    const runs = await runUntilWhole(world.azure, destroy);
    assert.ok(runs > 30, `${runs} calls were cut`);
    assert.deepEqual(world.azure.names(), []);
  });

  test("image, fleet create and destroy: a fleet is made, used and deleted", async () => {
    await using world = await World.make({ sizes });
    const built = await world.osb(["image", ...world.operator]);
    assert.equal(built.code, 0, built.stderr);
    const log = async (): Promise<string> => await readFile(join(world.directory, "ssh.log"), "utf8");
    assert.match(await log(), /setup-azure-host\.sh[^]*--prepare[^]*image build default[^]*waagent -deprovision/);
    const made = await world.osb(["fleet", "create", ...world.operator]);
    assert.equal(made.code, 0, made.stderr);
    assert.match(made.stdout, /Its first sandbox printed: Linux sandbox\nAPI key: osb_key\n/);
    assert.match(await log(), /admin workers --json[^]*osb run -- uname -a/);
    const shown = await world.osb(["status", "--json"]);
    assert.deepEqual([shown.code, (JSON.parse(shown.stdout) as { service: string }).service], [0, "active"]);
    assert.match(await log(), /systemctl is-active opensandbox-server/);
    const destroyed = await world.osb(["destroy", "--yes"]);
    assert.deepEqual([destroyed.code, world.azure.names()], [0, []], destroyed.stderr);
  });

  suite("of a fleet that was made from the image of an earlier version", () => {
    const compute = `/subscriptions/${subscription}/resourceGroups/opensandbox/providers/Microsoft.Compute`;
    const set = `${compute}/virtualMachineScaleSets/opensandbox-workers`;
    const earlier = `${compute}/images/opensandbox-image-0-0-1`;

    async function makeEarlier(): Promise<World> {
      const world = await World.make({ sizes });
      await buildImage(imageOn(world.azure), AbortSignal.timeout(30_000));
      await createFleet(creationOn(world.azure), AbortSignal.timeout(30_000));
      world.azure.add(earlier, "microsoft.compute/images", { opensandbox: "opensandbox" });
      world.azure.makeFrom(set, earlier);
      const server = JSON.stringify(world.azure.bodyOf("opensandbox-vm"));
      const [, customData = ""] = /"customData":"([^"]+)"/.exec(server) ?? [];
      await writeFile(join(world.directory, "user-data"), Buffer.from(customData, "base64"));
      await world.joinMachines(set);
      return world;
    }

    const log = async ({ directory }: World): Promise<string> => await readFile(join(directory, "ssh.log"), "utf8");

    test("upgrade: the server gets the new version, and each worker is replaced after it was drained", async () => {
      await using world = await makeEarlier();
      const { code, stdout, stderr } = await world.osb(["upgrade"]);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^upgraded opensandbox: 2 workers were replaced; the server is opensandbox-1/);
      const image = `${compute}/images/${imageName}`;
      assert.deepEqual(world.azure.imagesOf(set), [image, image]);
      const boot = "sudo osb azure fleet boot --role server --vault \\w+ .*--domain sandboxes.example.com --tls";
      const drains = "admin drain wk-opensandbox-000000 --no-wait[^]*admin drain wk-opensandbox-000001 --no-wait";
      assert.match(await log(world), new RegExp(`setup-azure-host[^]*--prepare[^]*${boot}[^]*${drains}`));
      const again = await world.osb(["upgrade", "--json"]);
      assert.equal((JSON.parse(again.stdout) as { workers: number }).workers, 0, again.stderr);
    });

    test("upgrade --dry-run: prints the calls that an upgrade then sends, and sends none of them", async () => {
      await using world = await makeEarlier();
      const changes = (from: number): string[] =>
        world.azure.requests.slice(from).filter((request) => !request.startsWith("GET "));
      const before = world.azure.requests.length;
      const planned = await world.osb(["upgrade", "--dry-run", "--json"]);
      assert.deepEqual([planned.code, changes(before)], [0, []], planned.stderr);
      const calls = JSON.parse(planned.stdout) as { method: string; path: string }[];
      await world.osb(["upgrade"]);
      assert.deepEqual(
        changes(before),
        calls.map(({ method, path }) => `${method} ${path}`),
      );
    });

    test("status: names the image of each worker's machine, and an upgrade that has not ended", async () => {
      await using world = await makeEarlier();
      const before = await world.osb(["status"]);
      assert.match(before.stdout, /^workers +2 from opensandbox-image-0-0-1$/m);
      world.azure.add(`${compute}/images/${imageName}`, "microsoft.compute/images", { opensandbox: "opensandbox" });
      await writeFile(join(world.directory, "workers.mjs"), "process.exit(1);\n");
      assert.equal((await world.osb(["upgrade"])).code, 1);
      const after = await world.osb(["status", "--json"]);
      assert.deepEqual((JSON.parse(after.stdout) as { workers: object }).workers, {
        images: { "opensandbox-image-0-0-1": 2, [imageName]: 1 },
        isUpgrading: true,
      });
    });

    test("status: of a fleet whose creation was interrupted, names no workers", async () => {
      await using world = await makeEarlier();
      world.azure.resources.delete(set.toLowerCase());
      assert.match((await world.osb(["status"])).stdout, /^workers +none$/m);
      const { code, stderr } = await world.osb(["upgrade"]);
      assert.equal(code, 1);
      assert.match(
        stderr,
        /there is no scale set opensandbox-workers yet: 'osb azure fleet create --name opensandbox'/,
      );
      assert.doesNotMatch(await log(world), /setup-azure-host|fleet boot/);
    });

    test("upgrade: without the image of this version, nothing is changed", async () => {
      await using world = await makeEarlier();
      world.azure.resources.delete(`${compute}/images/${imageName}`.toLowerCase());
      const { code, stderr } = await world.osb(["upgrade"]);
      assert.equal(code, 1);
      assert.match(
        stderr,
        /there is no image of version [\d.]+: 'osb azure image --name opensandbox --location eastus'/,
      );
      assert.doesNotMatch(await log(world), /setup-azure-host|fleet boot/);
    });

    test("deploy: the server gets this checkout, and each worker through the server", async () => {
      await using world = await makeEarlier();
      const { code, stdout, stderr } = await world.osb(["deploy"]);
      assert.equal(code, 0, stderr);
      assert.match(stdout, /^installed this checkout on the server and 2 workers of opensandbox;/);
      const through = "-J osb@203\\.0\\.113\\.7 -o HostKeyAlias=vm-id";
      const worker = (index: number): string =>
        `${through}-${index} [^\n]*osb@opensandbox-00000${index} [^\n]*setup-azure-host`;
      assert.match(await log(world), new RegExp(`fleet boot --role server[^]*${worker(0)}[^]*${worker(1)}`));
      assert.deepEqual(world.azure.imagesOf(set), [earlier, earlier]);
    });

    test("upgrade and deploy of a server that no fleet creation made are refused", async () => {
      await using world = await makeEarlier();
      await writeFile(join(world.directory, "user-data"), "#cloud-config\n");
      for (const command of ["upgrade", "deploy"]) {
        const { code, stderr } = await world.osb([command]);
        assert.equal(code, 1);
        assert.match(stderr, /the user data of 203\.0\.113\.7 has no 'osb azure fleet boot --role server'/);
      }
    });
  });

  test("a dry run prints the calls that a creation then sends, without secrets, and sends none", async () => {
    await using world = await World.make({ sizes });
    const words = ["fleet", "create", ...world.operator, "--subscription", subscription, "--size", "Standard_D48as_v6"];
    const planned = await world.osb([...words, "--dry-run", "--json"]);
    assert.deepEqual([planned.code, world.azure.requests], [0, []], planned.stderr);
    const calls = JSON.parse(planned.stdout) as { method: string; path: string; body?: object }[];
    await world.osb(["image", ...world.operator]);
    const before = world.azure.requests.length;
    const made = await world.osb([...words, "--no-wait"]);
    assert.equal(made.code, 0, made.stderr);
    // After its operation, a PUT is followed by a GET of the resource.
    const sent = world.azure.requests
      .slice(before)
      .filter(
        (request, index, all) => !(request.startsWith("GET ") && all[index - 1] === request.replace("GET", "PUT")),
      );
    const expected = calls.map(({ method, path }) => `${method} ${path.split("?")[0]}`);
    // The group is there since the image was built.
    assert.deepEqual(
      sent,
      expected.filter((call) => !/^PUT .*\/resourceGroups\/opensandbox$/.test(call)),
    );
    const secrets = calls.filter(({ path, method }) => method === "PUT" && path.includes("/secrets/"));
    assert.equal(secrets.length, 4);
    assert.deepEqual(
      secrets.map(({ body }) => body),
      secrets.map(() => ({ properties: { value: "SECRET" } })),
    );
  });

  for (const [words, says] of [
    ["--min-workers 5 --max-workers 2", "--min-workers and --max-workers take 1 to 600"],
    ["--domain localhost", "--domain takes a name such as"],
    ["--tls-cert chain.pem", "--tls-cert and --tls-key belong together"],
    ["--tls-cert chain.pem --tls-key key.pem", "--tls-cert needs --domain"],
  ] as const) {
    test(`fleet create ${words}: refused before Azure is asked`, async () => {
      const { code, stderr } = await runForTest(["azure", "fleet", "create", ...words.split(" ")]);
      assert.equal(code, 2);
      assert.ok(stderr.startsWith(`osb: ${says}`), stderr);
    });
  }
});
