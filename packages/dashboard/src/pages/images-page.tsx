import type { BuiltImage } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import {
  Button,
  Empty,
  Failure,
  Loading,
  Mono,
  RowActions,
  SelectField,
  State,
  Table,
  TextArea,
  TextField,
} from "../ui/controls.tsx";
import { Confirm, FormDialog } from "../ui/dialog.tsx";
import { bytes, linesOf, time, words } from "../ui/format.ts";
import { Icon } from "../ui/icons.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./pages.module.css";

/** Images of one's own: their list, a new build with its log, and their removal. */
export function ImagesPage(): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("images:write");
  const [isBuilding, setBuilding] = useState(false);
  const [asked, setAsked] = useState<BuiltImage>();
  const { data, error, refetch } = useQuery({
    queryKey: ["images"],
    queryFn: ({ signal }) => client.images.list(signal),
  });

  async function remove({ id, name }: BuiltImage): Promise<void> {
    try {
      await client.images.delete(id);
      notify.done(`image ${name === "" ? id : name} is deleted`);
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["images"] });
  }

  return (
    <Page
      title="Images"
      lead="What sandboxes start from, besides the images default and minimal"
      actions={
        mayWrite ? (
          <Button look="primary" onClick={() => setBuilding(true)}>
            <Icon name="plus" /> Build an image
          </Button>
        ) : undefined
      }
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the images" /> : null}
      {data?.length === 0 ? (
        <Empty title="No image of your own">
          <p>
            An image is built once from steps, such as packages and commands. Sandboxes then start with all of it in
            place.
          </p>
        </Empty>
      ) : null}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label="Images"
          rows={data}
          keyOf={({ id }) => id}
          columns={[
            { title: "Name", cell: ({ name, id }) => (name === "" ? <Mono>{id}</Mono> : <strong>{name}</strong>) },
            { title: "State", cell: ({ status }) => <State of={status} /> },
            { title: "On disk", isNumber: true, cell: ({ sizeBytes }) => bytes(sizeBytes) },
            { title: "Built", isNumber: true, cell: ({ createdAt }) => time(createdAt) },
            { title: "Checkpoint", cell: ({ checkpointId, error: why }) => <Mono>{why ?? checkpointId}</Mono> },
            {
              title: "",
              cell: (image) =>
                mayWrite ? (
                  <RowActions>
                    <Button isSmall look="danger" onClick={() => setAsked(image)}>
                      Delete
                    </Button>
                  </RowActions>
                ) : null,
            },
          ]}
        />
      )}
      <Build isOpen={isBuilding} onClose={() => setBuilding(false)} />
      <Confirm
        title={`Delete ${asked?.name === "" ? asked.id : asked?.name}?`}
        action="Delete"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => {
          if (asked !== undefined) void remove(asked);
        }}
      >
        <p>New sandboxes cannot start from it any more. Sandboxes that did keep running.</p>
      </Confirm>
    </Page>
  );
}

function Build({ isOpen, onClose }: { readonly isOpen: boolean; readonly onClose: () => void }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const [name, setName] = useState("");
  const [base, setBase] = useState("base");
  const [apt, setApt] = useState("");
  const [pip, setPip] = useState("");
  const [commands, setCommands] = useState("");
  const [lines, setLines] = useState<readonly string[]>();

  async function build(): Promise<void> {
    setLines([]);
    const [debian, python, run] = [words(apt), words(pip), linesOf(commands)];
    const steps = [
      ...(debian.length === 0 ? [] : [{ type: "apt_install", args: { packages: debian } } as const]),
      ...(python.length === 0 ? [] : [{ type: "pip_install", args: { packages: python } } as const]),
      ...(run.length === 0 ? [] : [{ type: "run", args: { commands: run } } as const]),
    ];
    try {
      const onLog = (line: string): void => setLines((before = []) => [...before.slice(-200), line]);
      await client.images.build(name.trim(), { base, steps }, { onLog });
      notify.done(`image ${name.trim()} is ready`);
      onClose();
    } finally {
      setLines(undefined);
      await queries.invalidateQueries({ queryKey: ["images"] });
    }
  }

  return (
    <FormDialog
      title="Build an image"
      action="Build"
      busyAction="Building…"
      isReady={name.trim() !== ""}
      cancel={lines === undefined ? "Cancel" : "Build in the background"}
      {...{ isOpen, onClose }}
      onSubmit={build}
    >
      <TextField label="Name" required value={name} onChange={(event) => setName(event.target.value)} />
      <SelectField
        label="Start from"
        value={base}
        onChange={setBase}
        choices={[
          { value: "base", label: "default" },
          { value: "minimal", label: "minimal" },
        ]}
      />
      <TextField
        label="Debian packages"
        placeholder="ripgrep ffmpeg"
        value={apt}
        onChange={(event) => setApt(event.target.value)}
      />
      <TextField
        label="Python packages"
        placeholder="numpy pandas"
        value={pip}
        onChange={(event) => setPip(event.target.value)}
      />
      <TextArea
        label="Commands"
        hint="One a line, after the packages"
        value={commands}
        onChange={(event) => setCommands(event.target.value)}
      />
      {lines === undefined || lines.length === 0 ? null : <Log lines={lines} />}
    </FormDialog>
  );
}

function Log({ lines }: { readonly lines: readonly string[] }): ReactNode {
  return (
    // oxlint-disable-next-line jsx-a11y/no-noninteractive-tabindex -- the keyboard scrolls it
    <pre className={styles["log"]} role="log" aria-label="Build log" tabIndex={0}>
      {lines.join("\n")}
    </pre>
  );
}
