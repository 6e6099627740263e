import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import type { SandboxId, SnapshotId } from "@opensandbox/wire/ids.ts";
import * as guestWire from "@opensandbox/wire/worker/rpc/guest-messages.ts";
import * as wire from "@opensandbox/wire/worker/rpc/sandbox-messages.ts";
import * as pb from "@opensandbox/wire/worker/rpc/worker_pb.js";
import type { FileEntry } from "@opensandbox/wire/worker/files.ts";
import type { RunRequest } from "@opensandbox/wire/worker/sessions.ts";
import type { StartSandbox, WorkerDescription } from "@opensandbox/wire/worker/worker.ts";

/** Messages as release 0.1.0 sends them, in hexadecimal. The file never changes. */
const file = join(import.meta.dirname, "worker-wire/0.1.0.json");

const start: StartSandbox = {
  id: "sb-0123456789abcdef" as SandboxId,
  generation: 7,
  organizationId: "org-1",
  organizationNumber: 12,
  from: {
    kind: "snapshot",
    snapshotId: "00000000-0000-4000-8000-000000000000" as SnapshotId,
    identity: "new",
    public: true,
  },
  vcpus: 2,
  memoryMib: 2048,
  cpuPercent: 150,
  maxPids: 512,
  workspaceMib: 20_480,
  envs: { A: "b" },
  networkEnabled: true,
  egress: { allow: ["example.com"], deny: [] },
};
const description: WorkerDescription = {
  hypervisor: "qemu",
  hypervisorVersion: "10.0.2",
  accelerator: { name: "kvm", reason: "it works" },
  network: { mode: "user", reason: "not root", notEnforced: ["egress rules"] },
  images: ["default", "minimal"],
};
const run: RunRequest = {
  id: "0a1b2c3d",
  command: { argv: ["sh", "-c", "true"], envs: { C: "d" }, cwd: "/tmp", user: "root", timeoutMs: 5000, stdin: true },
  purpose: "terminal",
  keepOutput: true,
  whenDetached: { killAfterMs: 1000 },
  terminal: { columns: 80, rows: 24 },
  transient: true,
  announce: true,
};
const ended = { end: { exitCode: 3, signal: 0, timedOut: true }, truncated: true };
const entry: FileEntry = {
  ...{ name: "link", path: "/tmp/link", size: 2 ** 40, mode: 0o777, modifiedMs: 1_700_000_000_000 },
  kind: "symlink",
  ...{ owner: "sandbox", group: "1000", linkTarget: "/tmp/target" },
};

/** Each message with what it must mean to a peer of any later version. */
const messages = {
  hello: {
    sent: () =>
      toBinary(
        pb.HelloReplySchema,
        create(pb.HelloReplySchema, {
          protocolVersion: 1,
          workerId: "wk-1",
          description: wire.descriptionToWire(description),
        }),
      ),
    read: (bytes: Uint8Array) => wire.descriptionFromWire(fromBinary(pb.HelloReplySchema, bytes).description),
    means: description,
  },
  start: {
    sent: () => toBinary(pb.StartSandboxRequestSchema, create(pb.StartSandboxRequestSchema, wire.startToWire(start))),
    read: (bytes: Uint8Array) => wire.startFromWire(fromBinary(pb.StartSandboxRequestSchema, bytes)),
    means: start,
  },
  run: {
    sent: () =>
      toBinary(
        pb.CreateSessionRequestSchema,
        create(pb.CreateSessionRequestSchema, guestWire.sessionToWire(start.id, run)),
      ),
    read: (bytes: Uint8Array) => guestWire.sessionFromWire(fromBinary(pb.CreateSessionRequestSchema, bytes)),
    means: run,
  },
  ended: {
    sent: () => toBinary(pb.SessionEndedSchema, create(pb.SessionEndedSchema, guestWire.endedToWire(ended))),
    read: (bytes: Uint8Array) => guestWire.endedFromWire(fromBinary(pb.SessionEndedSchema, bytes)),
    means: ended,
  },
  entry: {
    sent: () => toBinary(pb.FileEntrySchema, create(pb.FileEntrySchema, guestWire.entryToWire(entry))),
    read: (bytes: Uint8Array) => guestWire.entryFromWire(fromBinary(pb.FileEntrySchema, bytes)),
    means: entry,
  },
};

if (process.env["OPENSANDBOX_TEST_RECORD"] === "worker-wire") {
  const recorded = Object.entries(messages).map(([name, { sent }]) => [name, Buffer.from(sent()).toString("hex")]);
  writeFileSync(file, `${JSON.stringify(Object.fromEntries(recorded), undefined, 2)}\n`);
}
const recorded = JSON.parse(readFileSync(file, "utf8")) as Record<string, string>;

test("header rules pass from a server to a worker, with a start and with a change of the policy", () => {
  const egress = { deny: ["a.example"], headers: { "*.example.com": { "X-Team": "a" }, "b.example.com": {} } };
  const { sent, read } = {
    sent: toBinary(
      pb.StartSandboxRequestSchema,
      create(pb.StartSandboxRequestSchema, wire.startToWire({ ...start, egress })),
    ),
    read: (bytes: Uint8Array) => wire.startFromWire(fromBinary(pb.StartSandboxRequestSchema, bytes)),
  };
  assert.deepEqual(read(sent), { ...start, egress });
  const policy = { enabled: true, egress };
  const change = create(pb.SetNetworkPolicyRequestSchema, { sandboxId: start.id, ...wire.policyToWire(policy) });
  assert.deepEqual(wire.policyFromWire(change), policy);
});

for (const [name, { sent, read, means }] of Object.entries(messages)) {
  test(`the message ${name} of release 0.1.0 means the same today`, () => {
    assert.deepEqual(read(Buffer.from(recorded[name] ?? "", "hex")), means);
  });

  test(`the message ${name} of today means the same to release 0.1.0`, () => {
    // A field that was added comes after those that the release knows, which it reads as it sent them.
    assert.deepEqual(read(sent()), means);
  });

  test(`a field that a newer release has added to ${name} changes nothing else`, () => {
    // Field 1000 of type string, "x".
    const newer = Buffer.concat([sent(), Buffer.from([0xc2, 0x3e, 0x01, 0x78])]);
    assert.deepEqual(read(newer), means);
  });
}

test("an unknown word of a newer release becomes one that this release knows", () => {
  const bytes = toBinary(pb.SandboxEndSchema, create(pb.SandboxEndSchema, { reason: "teleported", detail: "gone" }));
  assert.deepEqual(wire.endFromWire(fromBinary(pb.SandboxEndSchema, bytes)), { reason: "exited", detail: "gone" });
  assert.equal(guestWire.changeFromWire(create(pb.FileChangeSchema, { kind: "chmod", path: "/a" })).kind, "lost");
  const request = create(pb.GuestRequestSchema, { requestId: "1", kind: "migrate", bodyJson: "{}" });
  assert.equal(wire.guestRequestFromWire(request), undefined);
});
