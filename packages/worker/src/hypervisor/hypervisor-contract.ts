import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import type { Hypervisor, VmSpec } from "./hypervisor.ts";

/** A hypervisor to test and what a machine of it is made of. Disposing it removes what was made for that. */
export interface ContractStand extends AsyncDisposable {
  readonly hypervisor: Hypervisor;
  readonly spec: VmSpec;
}

/**
 * What the rest of the worker relies on, whoever runs the machine. The fake runs it always, QEMU where it is
 * installed.
 */
export function hypervisorContract(name: string, stand: () => Promise<ContractStand>): void {
  const never = new AbortController().signal;

  test(`${name}: a machine is a process until it is disposed, which may happen twice`, async () => {
    await using standing = await stand();
    const machine = await standing.hypervisor.boot(standing.spec, never);
    assert.ok(existsSync(`/proc/${machine.pid}`));
    assert.ok(existsSync(machine.agentSocket));

    await machine[Symbol.asyncDispose]();
    await machine[Symbol.asyncDispose]();

    assert.deepEqual(await machine.exited, { reason: "killed", detail: "" });
    assert.equal(existsSync(`/proc/${machine.pid}`), false);
  });

  test(`${name}: pausing a paused machine and resuming a running one does nothing`, async () => {
    await using standing = await stand();
    await using machine = await standing.hypervisor.boot(standing.spec, never);
    await machine.pause();
    await machine.pause();
    await machine.resume();
    await machine.resume();
    assert.ok(existsSync(`/proc/${machine.pid}`));
  });

  test(`${name}: a process that dies is noticed and said`, async () => {
    await using standing = await stand();
    await using machine = await standing.hypervisor.boot(standing.spec, never);
    process.kill(machine.pid, "SIGKILL");
    const { reason, detail } = await machine.exited;
    assert.equal(reason, "died");
    assert.match(detail, /SIGKILL/);
  });

  test(`${name}: an abort before the boot leaves nothing`, async () => {
    await using standing = await stand();
    await assert.rejects(standing.hypervisor.boot(standing.spec, AbortSignal.abort()));
  });

  test(`${name}: a directory that is not there is an error, not a hang`, async () => {
    await using standing = await stand();
    const spec = { ...standing.spec, directory: "/nonexistent/machine" };
    await assert.rejects(
      standing.hypervisor.boot(spec, never),
      (error) => error instanceof Error && !isSandboxError(error, "canceled"),
    );
  });
}
