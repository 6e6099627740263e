import type { Client, SandboxInfo } from "@opensandbox/sdk";
import { useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { useClient } from "../session/signed-in.tsx";
import { Confirm } from "../ui/dialog.tsx";
import { bytes } from "../ui/format.ts";
import type { MenuEntry } from "../ui/menu.tsx";
import { useNotify } from "../ui/toasts.tsx";
import { forgetSandbox, showSandbox } from "./queries.ts";

export type ActionName = "hibernate" | "wake" | "checkpoint" | "fork" | "reboot" | "power-cycle" | "kill";

interface Action {
  readonly label: string;
  /** What it does and costs. */
  readonly hint: string;
  readonly in: readonly SandboxInfo["status"][];
}

const actions: Readonly<Record<ActionName, Action>> = {
  hibernate: {
    label: "Hibernate",
    hint: "Saves memory and processes to disk and frees the host's memory",
    in: ["running"],
  },
  wake: { label: "Wake", hint: "Continues where it was saved", in: ["hibernated"] },
  checkpoint: { label: "Checkpoint", hint: "Pauses it for a moment and keeps its disks and memory", in: ["running"] },
  fork: { label: "Fork", hint: "Takes a checkpoint and starts a copy from it", in: ["running"] },
  reboot: { label: "Reboot", hint: "Processes end, files stay", in: ["running"] },
  "power-cycle": { label: "Power-cycle", hint: "Boots its disks in a new machine", in: ["running", "error"] },
  kill: {
    label: "Kill",
    hint: "Deletes its disks and memory; checkpoints remain",
    in: ["running", "hibernated", "error", "creating"],
  },
};

/** Sandboxes of a bulk action that are worked on at the same time. */
const atOnce = 4;

/** The name that people know a sandbox by. */
export function nameOf({ alias, id }: Pick<SandboxInfo, "alias" | "id">): string {
  return alias === "" ? id : alias;
}

export interface Actions {
  readonly run: (name: ActionName, sandbox: SandboxInfo) => void;
  /** Runs an action on several sandboxes, a few at a time, without asking. */
  readonly runAll: (name: ActionName, sandboxes: readonly SandboxInfo[]) => Promise<void>;
  readonly entries: (sandbox: SandboxInfo, names?: readonly ActionName[]) => readonly MenuEntry[];
  readonly may: (name: ActionName, sandbox: SandboxInfo) => boolean;
  /** The ids of sandboxes with an action in progress. */
  readonly busy: ReadonlySet<string>;
  /** The dialog that asks before a sandbox is killed. */
  readonly dialog: ReactNode;
}

/** What can be done with a sandbox. Results and failures are shown as toasts. */
export function useActions(): Actions {
  const client = useClient();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const notify = useNotify();
  const [asked, setAsked] = useState<SandboxInfo>();
  const [busy, setBusy] = useState<ReadonlySet<string>>(new Set());

  async function work(name: ActionName, sandbox: SandboxInfo): Promise<void> {
    const { id } = sandbox;
    setBusy((before) => new Set([...before, id]));
    try {
      await perform(name, sandbox);
    } catch (error) {
      notify.failed(error);
    } finally {
      setBusy((before) => new Set([...before].filter((each) => each !== id)));
      void queries.invalidateQueries({ queryKey: ["sandbox", id] });
    }
  }

  async function perform(name: ActionName, sandbox: SandboxInfo): Promise<void> {
    const { id } = sandbox;
    switch (name) {
      case "hibernate": {
        const { sizeBytes } = await client.sandboxes.hibernate(id);
        await show(id);
        notify.done(`${nameOf(sandbox)} is hibernated: ${bytes(sizeBytes)} on disk`, {
          label: "Wake",
          run: () => void work("wake", sandbox),
        });
        return;
      }
      case "wake":
        showSandbox(queries, await client.sandboxes.wake(id));
        notify.done(`${nameOf(sandbox)} is running`);
        return;
      case "checkpoint": {
        const checkpoint = await client.checkpoints.create(id, { name: checkpointName() });
        notify.done(`checkpoint ${checkpoint.name} of ${nameOf(sandbox)} is ready: ${bytes(checkpoint.sizeBytes)}`);
        return;
      }
      case "fork": {
        const fork = await forkOf(client, id);
        showSandbox(queries, fork);
        notify.done(`${fork.id} is a copy of ${nameOf(sandbox)}`, {
          label: "Open",
          run: () => void navigate({ to: "/sandboxes/$id/$view", params: { id: fork.id, view: "terminal" } }),
        });
        return;
      }
      case "reboot":
        await client.sandboxes.reboot(id);
        notify.done(`${nameOf(sandbox)} has rebooted`);
        return;
      case "power-cycle":
        await client.sandboxes.powerCycle(id);
        await show(id);
        notify.done(`${nameOf(sandbox)} has booted in a new machine`);
        return;
      case "kill":
        await client.sandboxes.kill(id);
        forgetSandbox(queries, id);
        notify.done(`${nameOf(sandbox)} is deleted`);
    }
  }

  async function show(id: string): Promise<void> {
    showSandbox(queries, await client.sandboxes.get(id));
  }

  const run: Actions["run"] = (name, sandbox) => {
    if (name === "kill") setAsked(sandbox);
    else void work(name, sandbox);
  };
  const runAll: Actions["runAll"] = async (name, sandboxes) => {
    const waiting = [...sandboxes];
    const next = async (): Promise<void> => {
      for (let sandbox = waiting.shift(); sandbox !== undefined; sandbox = waiting.shift()) await work(name, sandbox);
    };
    await Promise.all(Array.from({ length: atOnce }, next));
  };
  const may: Actions["may"] = (name, { status }) => actions[name].in.includes(status);
  return {
    run,
    runAll,
    may,
    busy,
    entries: (sandbox, names = Object.keys(actions) as ActionName[]) =>
      names
        .filter((name) => may(name, sandbox))
        .map((name) => ({
          label: actions[name].label,
          hint: actions[name].hint,
          isDangerous: name === "kill",
          onSelect: () => run(name, sandbox),
        })),
    dialog: (
      <Confirm
        title={`Kill ${asked === undefined ? "" : nameOf(asked)}?`}
        action="Kill"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => asked !== undefined && void work("kill", asked)}
      >
        <p>Its disks and its memory are deleted at once, and nothing brings them back. Its checkpoints remain.</p>
      </Confirm>
    ),
  };
}

/** A running copy. The checkpoint between the two is removed: the copy does not need it. */
async function forkOf(client: Client, id: string): Promise<SandboxInfo> {
  const checkpoint = await client.checkpoints.create(id, { name: checkpointName() });
  try {
    return await client.checkpoints.fork(checkpoint.id);
  } finally {
    await client.checkpoints.delete(id, checkpoint.id);
  }
}

/** Unique within a sandbox, and sorts by time. */
export function checkpointName(): string {
  return new Date()
    .toISOString()
    .replaceAll(/\.\d+Z$/g, "")
    .replaceAll(/[T:]/g, "-");
}
