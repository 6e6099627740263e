import type { Client, FileEntry, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type DragEvent, type ReactNode, useRef, useState } from "react";
import { useClient, useMay } from "../../session/signed-in.tsx";
import { Button, Empty, Failure, Loading, RowActions, Table } from "../../ui/controls.tsx";
import { Confirm } from "../../ui/dialog.tsx";
import { bytes, time } from "../../ui/format.ts";
import { Icon } from "../../ui/icons.tsx";
import { Menu } from "../../ui/menu.tsx";
import { useNotify } from "../../ui/toasts.tsx";
import { FileDialog } from "./file-dialog.tsx";
import { droppedFiles, type Upload } from "./dropped-files.ts";
import { saveFile } from "./save-file.ts";
import { Asleep } from "../asleep.tsx";
import styles from "./files.module.css";

const home = "/home/sandbox";

/** The files of a running sandbox. */
export default function Files({ sandbox }: { readonly sandbox: SandboxInfo }): ReactNode {
  if (sandbox.status !== "running") return <Asleep sandbox={sandbox} what="Its files can be seen while it runs." />;
  return <Directory sandboxId={sandbox.id} />;
}

function Directory({ sandboxId: id }: { readonly sandboxId: string }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [path, setPath] = useState(home);
  const [opened, setOpened] = useState<FileEntry>();
  const [asked, setAsked] = useState<FileEntry>();
  const [progress, setProgress] = useState<string>();
  const [isOver, setOver] = useState(false);
  const input = useRef<HTMLInputElement>(null);
  const key = ["sandbox", id, "files", path];
  const { data, error, refetch } = useQuery({
    queryKey: key,
    queryFn: ({ signal }) => client.files.list(id, path, signal),
  });
  const entries = data?.toSorted(byKindAndName);

  async function change(work: () => Promise<string>): Promise<void> {
    try {
      notify.done(await work());
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["sandbox", id, "files"] });
  }

  async function upload(files: readonly Upload[]): Promise<void> {
    await change(async () => {
      try {
        for (const [index, { name, file }] of files.entries()) {
          setProgress(`Uploading ${name} (${index + 1} of ${files.length})`);
          await client.files.write(id, join(path, name), new Uint8Array(await file.arrayBuffer()));
        }
      } finally {
        setProgress(undefined);
      }
      return files.length === 1 ? `${files[0]?.name} is uploaded` : `${files.length} files are uploaded`;
    });
  }

  function drop(event: DragEvent): void {
    event.preventDefault();
    setOver(false);
    void droppedFiles(event.dataTransfer).then(upload, notify.failed);
  }

  return (
    <section
      className={`${styles["files"]} ${isOver ? styles["over"] : ""}`}
      aria-label="Files"
      onDragOver={(event) => {
        if (!mayWrite) return;
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={drop}
    >
      <div className={styles["tools"]}>
        <Path path={path} onChange={setPath} />
        {mayWrite ? (
          <div className={styles["buttons"]}>
            <Button isSmall onClick={() => input.current?.click()}>
              <Icon name="upload" /> Upload
            </Button>
            <NewDirectory
              onCreate={(name) =>
                void change(async () => {
                  await client.files.mkdir(id, join(path, name));
                  return `${name} is created`;
                })
              }
            />
          </div>
        ) : null}
      </div>
      <input
        ref={input}
        type="file"
        multiple
        hidden
        aria-label="Files to upload"
        onChange={({ target }) => {
          void upload([...(target.files ?? [])].map((file) => ({ name: file.name, file })));
          target.value = "";
        }}
      />
      {progress === undefined ? null : <Loading what={progress} />}
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {entries === undefined && error === null ? <Loading what="Reading the directory" /> : null}
      {entries?.length === 0 ? (
        <Empty title="An empty directory">{mayWrite ? <p>Drop files here to upload them.</p> : null}</Empty>
      ) : null}
      {entries === undefined || entries.length === 0 ? null : (
        <Table
          label={`Files in ${path}`}
          rows={entries}
          keyOf={(entry) => entry.path}
          columns={[
            {
              title: "Name",
              cell: (entry) => (
                <button
                  type="button"
                  className={styles["entry"]}
                  onClick={() => (entry.kind === "directory" ? setPath(entry.path) : setOpened(entry))}
                >
                  <Icon name={entry.kind === "directory" ? "folder" : "file"} />
                  <span>
                    {entry.name}
                    {entry.linkTarget === undefined ? "" : ` → ${entry.linkTarget}`}
                  </span>
                </button>
              ),
            },
            { title: "Size", isNumber: true, cell: ({ kind, size }) => (kind === "file" ? bytes(size) : "") },
            { title: "Owner", cell: ({ owner, group }) => `${owner}:${group}` },
            { title: "Mode", isNumber: true, cell: ({ mode }) => mode.toString(8).padStart(3, "0") },
            { title: "Changed", isNumber: true, cell: ({ modifiedAt }) => time(modifiedAt) },
            {
              title: "",
              cell: (entry) => (
                <RowActions>
                  <Menu
                    label={`Actions of ${entry.name}`}
                    entries={[
                      ...(entry.kind === "file"
                        ? [{ label: "Download", onSelect: () => void download(client, id, entry).catch(notify.failed) }]
                        : []),
                      ...(mayWrite ? [{ label: "Delete", isDangerous: true, onSelect: () => setAsked(entry) }] : []),
                    ]}
                  />
                </RowActions>
              ),
            },
          ]}
        />
      )}
      {opened === undefined ? null : (
        <FileDialog key={opened.path} sandboxId={id} entry={opened} onClose={() => setOpened(undefined)} />
      )}
      <Confirm
        title={`Delete ${asked?.name}?`}
        action="Delete"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => {
          if (asked === undefined) return;
          void change(async () => {
            await client.files.remove(id, asked.path);
            return `${asked.name} is deleted`;
          });
        }}
      >
        <p>
          {asked?.kind === "directory" ? "The directory and everything in it is" : "It is"} removed from the sandbox.
        </p>
      </Confirm>
    </section>
  );
}

/** The way to a directory. Each part leads back to it. */
function Path({ path, onChange }: { readonly path: string; readonly onChange: (path: string) => void }): ReactNode {
  const parts = path.split("/").filter((part) => part !== "");
  return (
    <nav className={styles["path"]} aria-label="Directory">
      <button type="button" onClick={() => onChange("/")}>
        /
      </button>
      {parts.map((part, index) => (
        <button
          key={parts.slice(0, index + 1).join("/")}
          type="button"
          onClick={() => onChange(`/${parts.slice(0, index + 1).join("/")}`)}
        >
          {part}
        </button>
      ))}
    </nav>
  );
}

function NewDirectory({ onCreate }: { readonly onCreate: (name: string) => void }): ReactNode {
  const [name, setName] = useState<string>();
  if (name === undefined) {
    return (
      <Button isSmall onClick={() => setName("")}>
        <Icon name="folder" /> New directory
      </Button>
    );
  }
  return (
    <form
      className={styles["new"]}
      onSubmit={(event) => {
        event.preventDefault();
        if (name.trim() !== "") onCreate(name.trim());
        setName(undefined);
      }}
    >
      <input
        // oxlint-disable-next-line jsx-a11y/no-autofocus -- the button that was pressed becomes this field
        autoFocus
        aria-label="Name of the directory"
        placeholder="name"
        value={name}
        onChange={(event) => setName(event.target.value)}
        onKeyDown={(event) => {
          if (event.key === "Escape") setName(undefined);
        }}
      />
      <Button isSmall type="submit">
        Create
      </Button>
    </form>
  );
}

async function download(client: Client, id: string, { path, name }: FileEntry): Promise<void> {
  const { content } = await client.files.read(id, path);
  const parts: BlobPart[] = [];
  for await (const chunk of content) parts.push(chunk as Uint8Array<ArrayBuffer>);
  saveFile(new Blob(parts), name);
}

function byKindAndName(one: FileEntry, other: FileEntry): number {
  const rank = ({ kind }: FileEntry): number => (kind === "directory" ? 0 : 1);
  return rank(one) - rank(other) || one.name.localeCompare(other.name);
}

function join(directory: string, name: string): string {
  return `${directory.replace(/\/$/, "")}/${name}`;
}
