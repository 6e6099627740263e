import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { Method } from "@opensandbox/wire/guest/methods.ts";
import type { SandboxSecrets } from "@opensandbox/wire/worker/worker.ts";
import { inner, macBytes } from "#network/address-plan.ts";
import { macAddressOf, machineIdOf } from "#guest/guest-identity.ts";
import { introduceGuest } from "./introduce-guest.ts";
import type { LiveMachine } from "#machine/live-machine.ts";

/** A machine whose agent speaks that protocol version, with the requests to its agent and its network. */
function machineWith(protocolVersion: number) {
  const admitted: string[] = [];
  const requests: object[] = [];
  const live = {
    vm: { exited: new Promise(() => undefined), console: async () => "" },
    guest: {
      ready: async () => ({ protocolVersion }),
      call: async (_method: Method, request: object) => {
        requests.push(request);
        return {};
      },
    },
    sandboxNetwork: { admit: (mac: string) => admitted.push(mac) },
  };
  return { live: live as unknown as LiveMachine, admitted, requests };
}

suite("the introduction of a guest", () => {
  const id = "sb-1a2b3c4d";
  const signal = new AbortController().signal;
  const host = { bootTimeoutMs: 180_000 };

  test("sends addresses derived from the id, and a host name only where there is one", async () => {
    const { live, admitted, requests } = machineWith(2);
    await introduceGuest(live, { id, hostname: "a", envs: {}, copied: true }, "restore", host, signal);
    await introduceGuest(live, { id, envs: {}, copied: false }, "restore", host, signal);
    const own = { machineId: machineIdOf(id), macAddress: macBytes(macAddressOf(id)) };
    const identities = requests.map((request) => {
      const { machineId, macAddress, hostname } = request as Record<string, unknown>;
      return { machineId, macAddress, hostname };
    });
    assert.deepEqual(identities, [
      { ...own, hostname: "a" },
      { ...own, hostname: undefined },
    ]);
    assert.deepEqual(admitted, []);
  });

  test("gives a guest its shape in the same call, unless its agent is that of an older snapshot", async () => {
    const shape = { processors: 2 };
    for (const [protocolVersion, taken] of [
      [3, false],
      [4, true],
    ] as const) {
      const { live, requests } = machineWith(protocolVersion);
      assert.equal(await introduceGuest(live, { id, envs: {}, copied: true, shape }, "restore", host, signal), taken);
      assert.equal(await introduceGuest(live, { id, envs: {}, copied: true }, "restore", host, signal), false);
      const shapes = requests.map((request) => ("shape" in request ? request.shape : undefined));
      assert.deepEqual(shapes, [taken ? shape : undefined, undefined]);
    }
  });

  test("names the setting of the deadline when a guest does not boot in time", async () => {
    const ready = async (until: AbortSignal) =>
      await new Promise<never>((_resolve, reject) => {
        until.addEventListener("abort", () => reject(until.reason as Error));
      });
    const live = { vm: { exited: new Promise(() => undefined), console: async () => "" }, guest: { ready } };
    const identity = { id, envs: {}, copied: false };
    const late = introduceGuest(live as unknown as LiveMachine, identity, "boot", { bootTimeoutMs: 10 }, signal);
    await assert.rejects(
      late,
      /did not answer within 0\.01 s of the boot; on a slow host, raise OPENSANDBOX_BOOT_SECONDS; the console is empty/,
    );
  });

  test("gives a guest the host's extra authorities before that of its secrets, and takes back what is no longer set", async () => {
    const secrets = { authority: { certificate: "OWN", privateKey: "" } } as unknown as SandboxSecrets;
    const waiting = { authority: undefined } as unknown as SandboxSecrets;
    const { live, requests } = machineWith(6);
    const extra = { ...host, extraAuthorities: "EXTRA" };
    for (const [from, more] of [
      [extra, { secrets }],
      [extra, {}],
      [host, {}],
      [host, { secrets }],
      [extra, { secrets: waiting }],
    ] as const) {
      await introduceGuest(live, { id, envs: { A: "1" }, copied: false, ...more }, "restore", from, signal);
    }
    const given = requests.map((request) => {
      const { authority, envs } = request as { authority?: string; envs: Record<string, string> };
      return [authority, Object.keys(envs).length];
    });
    assert.deepEqual(given, [
      ["EXTRAOWN", 5],
      ["EXTRA", 5],
      ["", 1],
      ["OWN", 5],
      [undefined, 5],
    ]);
  });

  test("an agent of an older snapshot starts without the extra authorities, and the log says so", async () => {
    const { live, requests } = machineWith(5);
    const logged: string[] = [];
    const from = { ...host, extraAuthorities: "EXTRA", log: (_level: string, message: string) => logged.push(message) };
    await introduceGuest(live, { id, envs: {}, copied: false }, "restore", from, signal);
    assert.deepEqual((requests[0] as { envs: object }).envs, {});
    assert.match(
      logged.join(),
      /^a guest agent of an earlier version does not take the certificates of OPENSANDBOX_EXTRA_CA$/,
    );
  });

  test("admits an agent of an older snapshot, which takes no MAC address, under that of its device", async () => {
    const { live, admitted } = machineWith(1);
    await introduceGuest(live, { id, envs: {}, copied: false }, "restore", host, signal);
    assert.deepEqual(admitted, [inner.deviceMac]);
  });
});
