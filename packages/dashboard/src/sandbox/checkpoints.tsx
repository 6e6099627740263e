import type { Checkpoint, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { checkpointName } from "../sandboxes/actions.tsx";
import { showSandbox } from "../sandboxes/queries.ts";
import { useClient, useMay } from "../session/signed-in.tsx";
import {
  Button,
  Empty,
  Failure,
  Loading,
  RowActions,
  SelectField,
  State,
  Table,
  Tag,
  TextField,
} from "../ui/controls.tsx";
import { Confirm, FormDialog } from "../ui/dialog.tsx";
import { bytes, time } from "../ui/format.ts";
import { Icon } from "../ui/icons.tsx";
import { Menu } from "../ui/menu.tsx";
import { useNotify } from "../ui/toasts.tsx";

type Asked = { readonly to: "restore" | "delete"; readonly checkpoint: Checkpoint };

/** The restore points of a sandbox. */
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
    queryFn: ({ signal }) => client.checkpoints.list(id, signal),
  });

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
      if (to === "delete") await client.checkpoints.delete(id, checkpoint.id);
      else await client.checkpoints.restore(id, checkpoint.id);
      return to === "delete" ? `checkpoint ${checkpoint.name} is deleted` : `restored to ${checkpoint.name}`;
    });

  const create = mayWrite ? (
    <Button disabled={status !== "running"} onClick={() => setNaming(true)}>
      <Icon name="plus" /> New checkpoint
    </Button>
  ) : null;
  if (error !== null) return <Failure error={error} onRetry={() => void refetch()} />;
  if (data === undefined) return <Loading what="Reading the checkpoints" />;
  return (
    <>
      {data.length === 0 ? (
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
          <Table
            label="Checkpoints"
            rows={data.toSorted((one, other) => other.createdAt.localeCompare(one.createdAt))}
            keyOf={(checkpoint) => checkpoint.id}
            columns={[
              {
                title: "Name",
                cell: ({ name, isPublic, error: why }) => (
                  <>
                    <strong>{name}</strong> {isPublic ? <Tag>public</Tag> : null} {why}
                  </>
                ),
              },
              { title: "State", cell: (checkpoint) => <State of={checkpoint.status} /> },
              { title: "Keeps", cell: ({ kind }) => (kind === "full" ? "disks and memory" : "disks") },
              { title: "Size", isNumber: true, cell: ({ sizeBytes }) => bytes(sizeBytes) },
              { title: "Made", isNumber: true, cell: ({ createdAt }) => time(createdAt) },
              {
                title: "",
                cell: (checkpoint) =>
                  mayWrite && checkpoint.status !== "processing" ? (
                    <RowActions>
                      {checkpoint.status === "ready" ? (
                        <Button isSmall onClick={() => fork(checkpoint)}>
                          Fork
                        </Button>
                      ) : null}
                      <Menu
                        label={`Actions of ${checkpoint.name}`}
                        entries={[
                          ...(checkpoint.status === "ready"
                            ? [
                                {
                                  label: "Restore",
                                  hint: "What changed since then is lost",
                                  onSelect: () => setAsked({ to: "restore", checkpoint }),
                                },
                              ]
                            : []),
                          {
                            label: "Delete",
                            hint: "Forks of it are unaffected",
                            isDangerous: true,
                            onSelect: () => setAsked({ to: "delete", checkpoint }),
                          },
                        ]}
                      />
                    </RowActions>
                  ) : null,
              },
            ]}
          />
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
