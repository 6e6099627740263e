import type { Checkpoint, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Link, useNavigate } from "@tanstack/react-router";
import { type ReactNode, useMemo, useState } from "react";
import { checkpointName, nameOf } from "../../sandboxes/actions.tsx";
import { allSandboxes, showSandbox } from "../../sandboxes/queries.ts";
import { useClient, useMay } from "../../session/signed-in.tsx";
import { Button, Empty, Failure, Loading, Mono, SelectField, State, Tag, TextField } from "../../ui/controls.tsx";
import { Confirm, FormDialog } from "../../ui/dialog.tsx";
import { bytes, time } from "../../ui/format.ts";
import { Icon } from "../../ui/icons.tsx";
import { Menu, type MenuEntry } from "../../ui/menu.tsx";
import { useNotify } from "../../ui/toasts.tsx";
import { type Family, familyOf } from "./family.ts";
import styles from "./checkpoints.module.css";

type Asked = { readonly to: "restore" | "delete"; readonly checkpoint: Checkpoint };

/** The restore points of a sandbox, in the tree of the sandboxes that were forked from one another. */
export default function Checkpoints({ sandbox }: { readonly sandbox: SandboxInfo }): ReactNode {
  const { id, status } = sandbox;
  const client = useClient();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [isNaming, setNaming] = useState(false);
  const [asked, setAsked] = useState<Asked>();
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", id, "checkpoints"],
    async queryFn({ signal }) {
      // Its ancestors and forks are among all checkpoints, of which the server lists the newest.
      const lists = await Promise.all([
        client.checkpoints.list(undefined, signal),
        client.checkpoints.list(id, signal),
      ]);
      return [...new Map(lists.flat().map((checkpoint) => [checkpoint.id, checkpoint])).values()];
    },
  });
  const { data: listed } = useQuery(allSandboxes(client));
  const family = useMemo(
    () => (data === undefined ? undefined : familyOf(id, listed?.sandboxes ?? [sandbox], data)),
    [id, sandbox, listed, data],
  );

  async function work(run: () => Promise<string>): Promise<void> {
    try {
      notify.done(await run());
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["sandbox", id] });
  }

  const fork = (checkpoint: Checkpoint): void =>
    void work(async () => {
      const made = await client.checkpoints.fork(checkpoint.id);
      showSandbox(queries, made);
      await navigate({ to: "/sandboxes/$id/$view", params: { id: made.id, view: "terminal" } });
      return `${made.id} starts from ${checkpoint.name}`;
    });

  const confirmed = ({ to, checkpoint }: Asked): void =>
    void work(async () => {
      if (to === "delete") await client.checkpoints.delete(checkpoint.sandboxId, checkpoint.id);
      else await client.checkpoints.restore(id, checkpoint.id);
      return to === "delete" ? `checkpoint ${checkpoint.name} is deleted` : `restored to ${checkpoint.name}`;
    });

  const create = mayWrite ? (
    <Button disabled={status !== "running"} onClick={() => setNaming(true)}>
      <Icon name="plus" /> New checkpoint
    </Button>
  ) : null;
  if (error !== null) return <Failure error={error} onRetry={() => void refetch()} />;
  if (family === undefined) return <Loading what="Reading the checkpoints" />;

  const actionsOf = (checkpoint: Checkpoint): ReactNode => {
    const isReady = checkpoint.status === "ready";
    if (!mayWrite || checkpoint.status === "processing") return null;
    const restore: MenuEntry = {
      label: "Restore",
      hint: "What changed since then is lost",
      onSelect: () => setAsked({ to: "restore", checkpoint }),
    };
    const remove: MenuEntry = {
      label: "Delete",
      hint: "Forks of it are unaffected",
      isDangerous: true,
      onSelect: () => setAsked({ to: "delete", checkpoint }),
    };
    return (
      <div className={styles["actions"]}>
        {isReady ? (
          <Button isSmall onClick={() => fork(checkpoint)}>
            Fork
          </Button>
        ) : null}
        <Menu
          label={`Actions of ${checkpoint.name}`}
          entries={[...(isReady && checkpoint.sandboxId === id ? [restore] : []), remove]}
        />
      </div>
    );
  };

  return (
    <>
      {family.checkpoints.length === 0 ? (
        <Empty title="No checkpoints">
          <p>
            A checkpoint keeps disks, memory and processes at one moment. The sandbox can return to it, and others start
            from it.
          </p>
          {create}
        </Empty>
      ) : (
        <>
          <div>{create}</div>
          <ul className={styles["tree"]} aria-label="Checkpoints">
            <Branch family={family} currentId={id} actionsOf={actionsOf} />
          </ul>
        </>
      )}
      <NewCheckpoint
        isOpen={isNaming}
        onClose={() => setNaming(false)}
        onCreate={(name, kind) =>
          void work(async () => {
            await client.checkpoints.create(id, { name, kind });
            return `checkpoint ${name} is ready`;
          })
        }
      />
      <Confirm
        title={asked?.to === "restore" ? `Restore ${asked.checkpoint.name}?` : `Delete ${asked?.checkpoint.name}?`}
        action={asked?.to === "restore" ? "Restore" : "Delete"}
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => {
          if (asked !== undefined) confirmed(asked);
        }}
      >
        <p>
          {asked?.to === "restore"
            ? "The sandbox returns to that moment. Files, memory and processes since then are lost; a new checkpoint keeps them."
            : "The sandbox cannot return to that moment any more. Sandboxes that were forked from it are unaffected."}
        </p>
      </Confirm>
    </>
  );
}

interface BranchProps {
  readonly family: Family;
  /** The sandbox whose page shows the tree. */
  readonly currentId: string;
  readonly actionsOf: (checkpoint: Checkpoint) => ReactNode;
}

/** A sandbox, below it its checkpoints, and below each of them the sandboxes that were forked from it. */
function Branch({ family: { sandboxId, sandbox, checkpoints }, currentId, actionsOf }: BranchProps): ReactNode {
  const isCurrent = sandboxId === currentId;
  return (
    <li>
      <div className={`${styles["node"]} ${isCurrent ? styles["current"] : ""}`}>
        <Icon name="sandboxes" />
        {sandbox === undefined ? (
          <Mono>{sandboxId}</Mono>
        ) : isCurrent ? (
          <strong>{nameOf(sandbox)}</strong>
        ) : (
          <Link to="/sandboxes/$id/$view" params={{ id: sandboxId, view: "checkpoints" }}>
            {nameOf(sandbox)}
          </Link>
        )}
        <State of={sandbox?.status ?? "deleted"} />
        {isCurrent ? <Tag>this sandbox</Tag> : null}
      </div>
      {checkpoints.length === 0 ? null : (
        <ul>
          {checkpoints.map(({ checkpoint, forks }) => (
            <li key={checkpoint.id}>
              <div className={`${styles["node"]} ${styles["checkpoint"]}`} role="group" aria-label={checkpoint.name}>
                <strong>{checkpoint.name}</strong>
                {checkpoint.status === "ready" ? null : <State of={checkpoint.status} />}
                {checkpoint.isPublic ? <Tag>public</Tag> : null}
                <span className={styles["facts"]}>
                  {checkpoint.error ??
                    `${checkpoint.kind === "full" ? "disks and memory" : "disks"}, ${bytes(checkpoint.sizeBytes)}, ${time(checkpoint.createdAt)}`}
                </span>
                {actionsOf(checkpoint)}
              </div>
              {forks.length === 0 ? null : (
                <ul>
                  {forks.map((fork) => (
                    <Branch key={fork.sandboxId} family={fork} {...{ currentId, actionsOf }} />
                  ))}
                </ul>
              )}
            </li>
          ))}
        </ul>
      )}
    </li>
  );
}

interface NewCheckpointProps {
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onCreate: (name: string, kind: Checkpoint["kind"]) => void;
}

function NewCheckpoint({ isOpen, onClose, onCreate }: NewCheckpointProps): ReactNode {
  const [name, setName] = useState(checkpointName);
  const [kind, setKind] = useState<Checkpoint["kind"]>("full");
  return (
    <FormDialog
      title="New checkpoint"
      action="Create"
      isReady={name.trim() !== ""}
      {...{ isOpen, onClose }}
      onSubmit={() => {
        onClose();
        onCreate(name.trim(), kind);
        setName(checkpointName());
      }}
    >
      <TextField label="Name" required value={name} onChange={(event) => setName(event.target.value)} />
      <SelectField
        label="Keeps"
        value={kind}
        onChange={(value) => setKind(value as Checkpoint["kind"])}
        choices={[
          { value: "full", label: "disks and memory: forks continue its processes" },
          { value: "disk_only", label: "disks: forks boot" },
        ]}
      />
    </FormDialog>
  );
}
