import type { FileEntry } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, type ReactNode, Suspense, useEffect, useMemo, useState } from "react";
import { useClient, useMay } from "../../session/signed-in.tsx";
import { Button, Failure, Loading, Note } from "../../ui/controls.tsx";
import { Dialog } from "../../ui/dialog.tsx";
import { bytes } from "../../ui/format.ts";
import { useNotify } from "../../ui/toasts.tsx";
import { saveFile } from "./save-file.ts";
import styles from "./files.module.css";

/** Loaded when a text is first shown. */
const Editor = lazy(() => import("./editor.tsx"));

/** Bytes of a file that are shown. A larger one can be downloaded. */
const maxShown = 2 ** 20;

const imageTypes: Readonly<Record<string, string>> = {
  png: "image/png",
  jpg: "image/jpeg",
  jpeg: "image/jpeg",
  gif: "image/gif",
  webp: "image/webp",
  svg: "image/svg+xml",
};

interface FileDialogProps {
  readonly sandboxId: string;
  readonly entry: FileEntry;
  readonly onClose: () => void;
}

/** A file's content: an image, a text that can be changed, or its size alone. */
export function FileDialog({ sandboxId, entry, onClose }: FileDialogProps): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [edited, setEdited] = useState<string>();
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", sandboxId, "file", entry.path],
    staleTime: 0,
    gcTime: 0,
    async queryFn({ signal }) {
      const { content } = await client.files.read(sandboxId, entry.path, { end: maxShown }, signal);
      const parts: BlobPart[] = [];
      for await (const chunk of content) parts.push(chunk as Uint8Array<ArrayBuffer>);
      return new Uint8Array(await new Blob(parts).arrayBuffer());
    },
  });
  const isWhole = data !== undefined && data.length <= maxShown;
  const text = useMemo(() => (isWhole ? textOf(data) : undefined), [data, isWhole]);
  const imageType = imageTypes[entry.name.split(".").at(-1)?.toLowerCase() ?? ""];

  async function save(): Promise<void> {
    if (edited === undefined) return;
    try {
      await client.files.write(sandboxId, entry.path, edited, { mode: entry.mode & 0o777 });
      notify.done(`${entry.name} is saved`);
      await queries.invalidateQueries({ queryKey: ["sandbox", sandboxId, "files"] });
      onClose();
    } catch (failure) {
      notify.failed(failure);
    }
  }

  return (
    <Dialog
      title={entry.name}
      isOpen
      isWide
      onClose={onClose}
      onSubmit={() => void save()}
      foot={
        <>
          <Button onClick={onClose}>Close</Button>
          {isWhole ? <Button onClick={() => saveFile(new Blob([data]), entry.name)}>Download</Button> : null}
          {text !== undefined && mayWrite ? (
            <Button look="primary" type="submit" disabled={edited === undefined || edited === text}>
              Save
            </Button>
          ) : null}
        </>
      }
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the file" /> : null}
      {data === undefined ? null : imageType !== undefined && isWhole ? (
        <Picture content={data} type={imageType} name={entry.name} />
      ) : text === undefined ? (
        <Note>
          {isWhole ? `This is not a text: ${bytes(entry.size)}.` : `It is too large to show: ${bytes(entry.size)}.`}
        </Note>
      ) : (
        <Suspense fallback={<Loading what="Loading the editor" />}>
          <Editor
            label={`Content of ${entry.name}`}
            fileName={entry.name}
            isReadOnly={!mayWrite}
            initialText={text}
            onChange={setEdited}
          />
        </Suspense>
      )}
    </Dialog>
  );
}

function Picture({
  content,
  type,
  name,
}: {
  readonly content: Uint8Array<ArrayBuffer>;
  readonly type: string;
  readonly name: string;
}): ReactNode {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([content], { type }));
    setUrl(made);
    return () => URL.revokeObjectURL(made);
  }, [content, type]);
  return url === undefined ? null : <img className={styles["picture"]} src={url} alt={name} />;
}

/** Undefined for bytes that are not UTF-8, or contain a zero. */
function textOf(content: Uint8Array): string | undefined {
  if (content.includes(0)) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch {
    return undefined;
  }
}
