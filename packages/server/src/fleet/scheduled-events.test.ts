import assert from "node:assert/strict";
import { access, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite, test } from "node:test";
import type { Evacuated } from "@opensandbox/control-plane/fleet.ts";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { InstanceMetadata } from "@opensandbox/worker/instance-metadata.ts";
import { FakeMetadata, type ShownEvent } from "../../../worker/src/azure/testing/fake-metadata.ts";
import { ScheduledEvents } from "./scheduled-events.ts";

/** A worker on the machine `vm-1` with a server that hibernates its sandboxes. */
class Evicted implements AsyncDisposable {
  readonly fake: FakeMetadata;
  readonly directory: string;
  left: { sandboxes: number; snapshots: number } = { sandboxes: 2, snapshots: 0 };
  isCordoned = false;
  evacuations = 0;
  watch: ScheduledEvents;

  private constructor(fake: FakeMetadata, directory: string) {
    this.fake = fake;
    this.directory = directory;
    this.watch = this.#start();
  }

  static async make(): Promise<Evicted> {
    return new Evicted(await FakeMetadata.start(), await mkdtemp(join(tmpdir(), "osb-events-")));
  }

  async restart(): Promise<void> {
    await this.watch[Symbol.asyncDispose]();
    this.watch = this.#start();
  }

  announce(EventType: string, more: Partial<ShownEvent> = {}): void {
    const common = { EventId: `event-${this.fake.events.length + 1}`, EventStatus: "Scheduled", NotBefore: "" };
    this.fake.events = [...this.fake.events, { ...common, EventType, Resources: ["vm-1"], ...more }];
  }

  async isMarked(): Promise<boolean> {
    return await access(join(this.directory, "mark")).then(
      () => true,
      () => false,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.watch[Symbol.asyncDispose]();
    await this.fake[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true });
  }

  #start(): ScheduledEvents {
    const evacuate = async (): Promise<Evacuated> => {
      const wasCordoned = this.isCordoned;
      this.isCordoned = true;
      this.evacuations += 1;
      return await Promise.resolve({ ...this.left, wasCordoned });
    };
    const admit = async (): Promise<void> => {
      await Promise.resolve();
      this.isCordoned = false;
    };
    const metadata = new InstanceMetadata(this.fake.endpoint, { pauseMs: 1 });
    const markFile = join(this.directory, "mark");
    return new ScheduledEvents({ metadata, evacuate, admit, markFile, log: () => undefined, everyMs: 1 });
  }
}

suite("scheduled events of Azure", () => {
  test("a reboot begins when every sandbox has hibernated, and afterwards the worker takes new ones", async () => {
    await using host = await Evicted.make();
    host.announce("Reboot");
    await eventually("the server is asked again while sandboxes run", () => host.evacuations > 3);
    assert.deepEqual(host.fake.approved, []);
    // Snapshots survive a reboot on the disk of the worker.
    host.left = { sandboxes: 0, snapshots: 2 };
    await eventually("Azure may begin", () => host.fake.approved.length > 0);
    assert.deepEqual([host.fake.approved, host.isCordoned], [["event-1"], true]);
    await host.restart();
    assert.equal(host.isCordoned, true);
    host.fake.events = [];
    await eventually("new sandboxes may come", () => !host.isCordoned);
    await eventually("no mark is left", async () => !(await host.isMarked()));
  });

  for (const type of ["Preempt", "Terminate"]) {
    test(`${type}: the machine may go when every snapshot is stored elsewhere`, async () => {
      await using host = await Evicted.make();
      host.left = { sandboxes: 0, snapshots: 1 };
      host.announce(type);
      await eventually("the server is asked again while a snapshot is here alone", () => host.evacuations > 3);
      assert.deepEqual(host.fake.approved, []);
      host.left = { sandboxes: 0, snapshots: 0 };
      await eventually("Azure may begin", () => host.fake.approved.length > 0);
    });
  }

  test("events of other machines, and pauses of a few seconds, change nothing", async () => {
    await using host = await Evicted.make();
    host.announce("Terminate", { Resources: ["vm-2"] });
    host.announce("Freeze");
    host.left = { sandboxes: 0, snapshots: 0 };
    host.announce("Reboot", { Resources: ["VM-1", "vm-2"] });
    await eventually("the last event is answered", () => host.fake.approved.length > 0);
    assert.deepEqual(host.fake.approved, ["event-3"]);
  });

  test("a worker that an operator has cordoned stays so after the event", async () => {
    await using host = await Evicted.make();
    host.isCordoned = true;
    host.left = { sandboxes: 0, snapshots: 0 };
    host.announce("Reboot");
    await eventually("Azure may begin", () => host.fake.approved.length > 0);
    assert.equal(await host.isMarked(), false);
  });

  test("a metadata service that fails for a while leaves no event unanswered", async () => {
    await using host = await Evicted.make();
    host.left = { sandboxes: 0, snapshots: 0 };
    host.fake.faults.push(...Array.from({ length: 30 }, () => 500));
    host.announce("Terminate");
    await eventually("Azure may begin", () => host.fake.approved.length > 0);
  });
});
