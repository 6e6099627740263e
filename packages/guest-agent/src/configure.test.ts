import assert from "node:assert/strict";
import { tmpdir } from "node:os";
import { suite, test } from "node:test";
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import { ConfigureRequestSchema, type Hooks } from "@opensandbox/wire/guest/messages_pb.js";
import { MachineEnvironment } from "#exec/environment.ts";
import { fakeSystem } from "#system/fake-system.ts";
import { configure } from "./configure.ts";

/** The changes that a request makes to a machine, in order. */
async function doneFor(request: MessageInitShape<typeof ConfigureRequestSchema>): Promise<readonly string[]> {
  const done: string[] = [];
  const note =
    (what: string) =>
    (value?: unknown): void =>
      void done.push(typeof value === "string" ? `${what} ${value}` : what);
  const fake = fakeSystem(tmpdir());
  const system = {
    ...fake,
    addEntropy: note("entropy"),
    setClock: note("clock"),
    setMacAddress: note("mac"),
    setHostname: note("hostname"),
    setMachineId: note("machine id"),
    trustAuthority: note("authority"),
    fileSystems: { ...fake.fileSystems, thaw: note("thaw") },
    growWorkspace: async () => note("workspace")(),
    setProcessors: () => note("processors")(),
    limitCommands: () => note("limits")(),
  };
  const hooks = async ({ event }: Hooks): Promise<void> => note(`hooks ${event}`)();
  await configure(create(ConfigureRequestSchema, request), system, new MachineEnvironment(undefined), hooks);
  return done;
}

suite("configuring a machine", () => {
  const entropy = new Uint8Array(32);

  test("applies entropy first, the MAC address before the network is used, and writes after the thaw alone", async () => {
    const request = {
      entropy,
      clockUnixNanos: 1n,
      thaw: true,
      machineId: "1",
      hostname: "a",
      macAddress: new Uint8Array(6),
      authority: "A",
      shape: { workspaceBytes: 1n, processors: 1, limits: {} },
      hooks: { event: "after-wake" },
    };
    const done = [
      "entropy",
      "clock",
      "mac",
      "thaw",
      "machine id 1",
      "hostname a",
      "authority A",
      ...["workspace", "processors", "limits"],
      "hooks after-wake",
    ];
    assert.deepEqual(await doneFor(request), done);
  });

  test("leaves unchanged what the request does not set", async () => {
    assert.deepEqual(await doneFor({ entropy }), ["entropy"]);
  });
});
