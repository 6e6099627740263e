// The torture of a sandbox, and many forks at once, on a host with KVM. A host without it emulates one: ./test kvm all.
import assert from "node:assert/strict";
import { after, suite, test, type TestContext } from "node:test";
import { examineVsock } from "../../packages/worker/src/host/examine-vsock.ts";
import { examineQemu } from "../../packages/worker/src/hypervisor/qemu/examine-qemu.ts";
import { vsockSockets } from "../../packages/worker/src/testing/vsock-sockets.ts";
import { forkMany } from "./fork-many.ts";
import { tortureSandbox } from "./torture-sandbox.ts";

const { accelerator, reason } = await examineQemu({ program: "qemu-system-x86_64", wanted: "auto" });
const skip = accelerator === "kvm" ? false : `KVM does not work here (${reason}); ./test kvm all emulates a host`;

const hasVsock = examineVsock().usable;

/** With this seed, twelve rounds do each operation at least once. */
const seed = 2110;

suite(hasVsock ? "under KVM, over vsock" : "under KVM", { skip }, () => {
  let channels = 0;
  function sayTo(t: TestContext): (line: string) => void {
    return (line) => {
      channels = Math.max(channels, vsockSockets().length);
      t.diagnostic(line);
    };
  }
  after(() => assert.equal(channels > 0, hasVsock));

  test("a sandbox that writes continuously loses nothing over twelve rounds", async (t) => {
    const say = sayTo(t);
    const { failures, done } = await tortureSandbox({ rounds: 12, seed, image: "minimal", files: 200, say });
    assert.deepEqual(failures, []);
    for (const [operation, times] of Object.entries(done)) assert.ok(times > 0, `there was no ${operation}`);
  });

  test("sixteen forks that start at once share no value that must be unique", async (t) => {
    const say = sayTo(t);
    const { failures } = await forkMany({ count: 16, batch: 16, image: "minimal", say });
    assert.deepEqual(failures, []);
  });
});
