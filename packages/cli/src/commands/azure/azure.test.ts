import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { suite, test } from "node:test";
import { runForTest } from "../../testing/test-host.ts";
import { World } from "./testing/azure-world.ts";
import { subscription, undeletable } from "./testing/fake-resource-manager.ts";
import { defaultSizes } from "./resource-manager/single-host.ts";

const everything = [
  "disks/opensandbox-data",
  "networkInterfaces/opensandbox-nic",
  "networkSecurityGroups/opensandbox-nsg",
  "publicIPAddresses/opensandbox-ip",
  "resourceGroups/opensandbox",
  "virtualMachines/opensandbox-vm",
  "virtualNetworks/opensandbox-vnet",
];

test("a creation makes every resource with the tag, and a second one changes nothing", async () => {
  await using world = await World.make();
  const { code, stdout, stderr } = await world.create();
  assert.equal(code, 0, stderr);
  assert.match(
    stdout,
    /^opensandbox runs at opensandbox-11111111\.eastus\.cloudapp\.azure\.com \(203\.0\.113\.7\), size Standard_D48as_v6/,
  );
  assert.deepEqual(world.azure.names(), everything);
  for (const { body } of world.azure.resources.values()) assert.deepEqual(body.tags, { opensandbox: "opensandbox" });
  const before = world.azure.requests.length;
  assert.equal((await world.create()).code, 0);
  assert.ok(world.azure.requests.slice(before).every((request) => request.startsWith("GET ")));
});

test("the machine has nested virtualization, and ssh is open to one address", async () => {
  await using world = await World.make();
  await world.create();
  const machine = JSON.stringify(world.azure.bodyOf("opensandbox-vm"));
  assert.match(machine, /"securityProfile":\{"securityType":"Standard"\}/);
  const rules = JSON.stringify(world.azure.bodyOf("opensandbox-nsg"));
  assert.match(rules, /"sourceAddressPrefix":"192\.0\.2\.1"[^}]*"destinationPortRange":"22"/);
  assert.equal(rules.match(/"access":"Allow"/g)?.length, 2);
});

test("a creation whose connection is cut at any request continues, and makes each resource once", async () => {
  for (let at = 1; ; at += 1) {
    await using world = await World.make();
    world.azure.cutAt = at;
    const first = await world.create();
    if (world.azure.received < at) {
      assert.ok(at > 20, `a creation sends ${at} requests`);
      assert.equal(first.code, 0);
      return;
    }
    assert.equal(first.code, 1, `request ${at}`);
    assert.match(first.stderr, /cannot reach Azure/);
    const second = await world.create();
    assert.deepEqual([second.code, world.azure.names()], [0, everything], `after request ${at}: ${second.stderr}`);
  }
});

test("a destruction that is cut at any request continues until nothing is left", async () => {
  for (let at = 1; ; at += 1) {
    await using world = await World.make();
    await world.create();
    world.azure.cutAt = world.azure.received + at;
    const first = await world.osb(["destroy", "--yes"]);
    if (world.azure.received < world.azure.cutAt) {
      assert.ok(at > 15, `a destruction sends ${at} requests`);
      assert.deepEqual([first.code, world.azure.names()], [0, []]);
      return;
    }
    assert.equal(first.code, 1, `request ${at}`);
    const second = await world.osb(["destroy", "--yes"]);
    assert.deepEqual([second.code, world.azure.names()], [0, []], `after request ${at}: ${second.stderr}`);
  }
});

test("every type of resource that a creation makes can be destroyed", () => {
  assert.deepEqual(undeletable, []);
});

test("requests that Azure throttles or fails to serve are repeated", async () => {
  await using world = await World.make();
  world.azure.faults.push(
    { status: 429, code: "TooManyRequests", headers: { "retry-after": "0" } },
    { status: 503, code: "ServiceUnavailable" },
    { status: 500, code: "InternalServerError" },
  );
  const { code, stderr } = await world.create();
  assert.deepEqual([code, world.azure.names()], [0, everything], stderr);
});

suite("sizes", () => {
  test("a size without free quota, or not in the location, is passed over", async () => {
    const sizes = ["Standard_D48as_v6", "Standard_D48s_v5", "Standard_D16s_v5"];
    await using world = await World.make({ sizes, free: (size) => (size === "Standard_D16s_v5" ? 16 : 15) });
    const { code, stdout } = await world.create();
    assert.equal(code, 0);
    assert.match(stdout, /size Standard_D16s_v5/);
  });

  test("a machine that cannot be placed is removed, and the next size is tried", async () => {
    const sizes = ["Standard_D48as_v6", "Standard_D48s_v6"];
    await using world = await World.make({ sizes, unplaceable: ["Standard_D48as_v6"] });
    const { code, stdout, stderr } = await world.create();
    assert.equal(code, 0, stderr);
    assert.match(stdout, /size Standard_D48s_v6/);
    assert.match(stderr, /Standard_D48as_v6: AllocationFailed: no capacity/);
    assert.deepEqual(world.azure.names(), everything);
  });

  test("when no size is left, the error says why for each, and how to ask for quota", async () => {
    await using world = await World.make({ sizes: ["Standard_D48as_v6"], free: () => 4 });
    const { code, stderr } = await world.create("--size", "Standard_D48as_v6,Standard_D16s_v5");
    assert.equal(code, 1);
    assert.match(
      stderr,
      /Standard_D48as_v6: needs 48 vCPUs of the quota family of Standard_D48as_v6, of which 4 are free/,
    );
    assert.match(stderr, /Standard_D16s_v5: not in eastus/);
    assert.match(stderr, /Usage \+ quotas/);
  });

  test("the default sizes begin with Standard_D48as_v6 and are all of families with nested virtualization", () => {
    assert.equal(defaultSizes[0], "Standard_D48as_v6");
    assert.ok(defaultSizes.every((size) => /^Standard_D\d+a?s_v[56]$/.test(size)));
  });
});

test("a resource with the same name and without the tag is never changed", async () => {
  await using world = await World.make();
  world.azure.add(`/subscriptions/${subscription}/resourceGroups/opensandbox`, "Microsoft.Resources/resourceGroups");
  const { code, stderr } = await world.create();
  assert.equal(code, 1);
  assert.match(
    stderr,
    /exists without the tag opensandbox=opensandbox, so it is not this program's\. Use another --name/,
  );
  assert.ok(world.azure.requests.every((request) => request.startsWith("GET ")));
});

suite("destroy", () => {
  const foreign = `/subscriptions/${subscription}/resourceGroups/opensandbox/providers/Microsoft.Storage/storageAccounts/photos`;

  test("deletes only resources with the tag, and keeps the group for the others", async () => {
    await using world = await World.make();
    await world.create();
    world.azure.add(foreign, "Microsoft.Storage/storageAccounts");
    const { code, stdout } = await world.osb(["destroy", "--yes"]);
    assert.equal(code, 0);
    assert.deepEqual(world.azure.names(), ["resourceGroups/opensandbox", "storageAccounts/photos"]);
    assert.ok(stdout.includes(`kept the resource group, which has resources without the tag:\n  ${foreign}`), stdout);
  });

  for (const answer of ["", "yes\n", "opensandbo\n"]) {
    test(`deletes nothing after the answer ${JSON.stringify(answer)}`, async () => {
      await using world = await World.make();
      await world.create();
      const { code, stdout, stderr } = await world.osb(["destroy"], {}, answer);
      assert.deepEqual([code, stdout], [1, "deleted nothing\n"]);
      assert.match(stderr, /virtualMachines\/opensandbox-vm/);
      assert.deepEqual(world.azure.names(), everything);
    });
  }

  test("deletes after the name was typed", async () => {
    await using world = await World.make();
    await world.create();
    assert.equal((await world.osb(["destroy"], {}, "opensandbox\n")).code, 0);
    assert.deepEqual(world.azure.names(), []);
  });

  test("with --dry-run, lists and deletes nothing", async () => {
    await using world = await World.make();
    await world.create();
    const { stdout } = await world.osb(["destroy", "--dry-run", "--json"]);
    assert.equal((JSON.parse(stdout) as { wouldDelete: string[] }).wouldDelete.length, 6);
    assert.deepEqual(world.azure.names(), everything);
  });

  test("of a host that does not exist succeeds", async () => {
    await using world = await World.make();
    const { code, stdout } = await world.osb(["destroy", "--yes"]);
    assert.deepEqual([code, stdout], [0, "there is no host opensandbox to delete\n"]);
  });
});

test("a dry run prints the calls that a creation then sends, and sends none", async () => {
  await using world = await World.make();
  const { code, stdout } = await world.create("--dry-run", "--json", "--subscription", subscription);
  assert.deepEqual([code, world.azure.requests], [0, []]);
  const calls = JSON.parse(stdout) as { method: string; path: string; body?: object }[];
  await world.create();
  const planned = calls.map(({ method, path }) => `${method} ${path.split("?")[0]}`);
  // After its operation, a PUT is followed by a GET of the resource.
  const sent = world.azure.requests.filter(
    (request, index, all) => !(request.startsWith("GET ") && all[index - 1] === request.replace("GET", "PUT")),
  );
  assert.deepEqual(sent, planned);
  const [, machine] = calls.filter(({ path }) => path.endsWith("opensandbox-vm"));
  assert.deepEqual(machine?.body, world.azure.bodyOf("opensandbox-vm"));
});

test("a deployment sends this checkout without its packages, and runs the script in it", async () => {
  await using world = await World.make();
  await world.create();
  const { code, stderr } = await world.osb(["deploy"]);
  assert.equal(code, 0, stderr);
  const log = await readFile(join(world.directory, "ssh.log"), "utf8");
  assert.match(log, /osb@203\.0\.113\.7 sudo sh -c '.*setup-azure-host\.sh/);
  const { spawnSync } = await import("node:child_process");
  const { stdout } = spawnSync("tar", ["-tzf", join(world.directory, "archive.tar.gz")], { encoding: "utf8" });
  const files = stdout.split("\n");
  for (const file of ["./opensandbox", "./package-lock.json", "./deploy/azure/setup-azure-host.sh"]) {
    assert.ok(files.includes(file), file);
  }
  assert.ok(!files.some((file) => file.includes("node_modules") || file.startsWith("./.git/")));
});

test("a whole creation waits for the boot, installs, runs a sandbox, and prints address, key and tunnel", async () => {
  await using world = await World.make();
  const { code, stdout, stderr } = await world.createWhole();
  assert.equal(code, 0, stderr);
  const log = (await readFile(join(world.directory, "ssh.log"), "utf8")).trim().split("\n");
  const order = ["cloud-init status --wait", "setup-azure-host.sh", "osb run -- uname -a", "api-key"];
  assert.deepEqual(
    log.map((line) => order.findIndex((part) => line.includes(part))),
    [0, 1, 2, 3],
    log.join("\n"),
  );
  assert.match(stdout, /\nIts first sandbox printed: Linux sandbox\nAPI key: osb_key\n/);
  assert.match(stdout, /ssh -N -L 8080:127\.0\.0\.1:8080 osb@opensandbox-11111111\.eastus\.cloudapp\.azure\.com\n/);
  assert.match(stdout, /-H "X-API-Key: osb_key"/);
});

test("an upgrade copies the database before it replaces the version", async () => {
  await using world = await World.make();
  await world.create();
  assert.equal((await world.osb(["upgrade"])).code, 0);
  const lines = (await readFile(join(world.directory, "ssh.log"), "utf8")).split("\n");
  const backup = lines.findIndex((line) => line.includes("admin backup --database-only"));
  const install = lines.findIndex((line) => line.includes("setup-azure-host.sh"));
  assert.ok(backup !== -1 && backup < install);
});

test("status shows machine and service", async () => {
  await using world = await World.make();
  await world.create();
  const { code, stdout } = await world.osb(["status", "--json"]);
  assert.equal(code, 0);
  assert.deepEqual(JSON.parse(stdout), {
    name: "opensandbox",
    hostname: "opensandbox-11111111.eastus.cloudapp.azure.com",
    address: "203.0.113.7",
    location: "eastus",
    size: "Standard_D48as_v6",
    provisioningState: "Succeeded",
    power: "running",
    service: "active",
  });
});

for (const command of ["deploy", "upgrade", "status", "ssh", "logs"]) {
  test(`${command} of a host that does not exist says how to make it`, async () => {
    await using world = await World.make();
    const { code, stderr } = await world.osb([command]);
    assert.equal(code, 1);
    assert.match(
      stderr,
      /there is no host opensandbox in this subscription; 'osb azure create --name opensandbox' makes one/,
    );
  });
}

test("without a login, the error says how to sign in", async () => {
  await using world = await World.make();
  await world.program("az", "echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1");
  const { code, stderr } = await world.osb(["status"]);
  assert.equal(code, 1);
  assert.match(
    stderr,
    /cannot sign in to Azure: ERROR: Please run 'az login' to setup account\.\. Run 'az login', or set AZURE_TENANT_ID/,
  );
});

for (const [words, says] of [
  ["--name Lab", "--name takes 2 to 40 lower-case letters"],
  ["--data-disk 8", "--data-disk must be from 32 to 32767"],
  ["--ssh-from anywhere", "--ssh-from takes an address or a range"],
  ["--source https://example.com/osb.tgz", "--source and --source-sha256 belong together"],
] as const) {
  test(`create ${words}: refused before Azure is asked`, async () => {
    const { code, stderr } = await runForTest(["azure", "create", ...words.split(" ")]);
    assert.equal(code, 2);
    assert.ok(stderr.startsWith(`osb: ${says}`), stderr);
  });
}
