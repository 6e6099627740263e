import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Button, Failure, Mono, RowActions, Table, TextField } from "../ui/controls.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./network.module.css";

/** The ports of a sandbox that have a public address. */
export function Previews({ sandboxId: id }: { readonly sandboxId: string }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [port, setPort] = useState("");
  const { data, error, refetch } = useQuery({
    queryKey: ["sandbox", id, "previews"],
    queryFn: ({ signal }) => client.previews.list(id, signal),
  });

  async function change(run: () => Promise<string>): Promise<void> {
    try {
      notify.done(await run());
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["sandbox", id, "previews"] });
  }

  const create = (): void =>
    void change(async () => {
      const { hostname } = await client.previews.create(id, { port: Number(port) });
      setPort("");
      return `port ${port} is at ${hostname}`;
    });

  return (
    <section className={styles["refusals"]} aria-label="Previews">
      <h2>Previews</h2>
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label="Previews"
          rows={data}
          keyOf={(preview) => String(preview.port)}
          columns={[
            { title: "Port", isNumber: true, cell: (preview) => preview.port },
            {
              title: "Address",
              cell: ({ hostname }) => (
                <a href={addressOf(hostname)} target="_blank" rel="noreferrer noopener">
                  <Mono>{hostname}</Mono>
                </a>
              ),
            },
            {
              title: "",
              cell: (preview) =>
                mayWrite ? (
                  <RowActions>
                    <Button
                      isSmall
                      look="danger"
                      onClick={() =>
                        void change(async () => {
                          await client.previews.delete(id, preview.port);
                          return `port ${preview.port} has no preview any more`;
                        })
                      }
                    >
                      Delete
                    </Button>
                  </RowActions>
                ) : null,
            },
          ]}
        />
      )}
      {mayWrite ? (
        <form
          className={styles["port"]}
          onSubmit={(event) => {
            event.preventDefault();
            create();
          }}
        >
          <TextField
            label="Port"
            hint="Its address is open to everybody who knows it, unless the sandbox requires a token"
            type="number"
            required
            min={1}
            max={65_535}
            value={port}
            onChange={(event) => setPort(event.target.value)}
          />
          <Button type="submit">Create a preview</Button>
        </form>
      ) : null}
    </section>
  );
}

/** Previews are served by the same server: with its protocol and at its port. */
function addressOf(hostname: string): string {
  return `${location.protocol}//${hostname}${location.port === "" ? "" : `:${location.port}`}`;
}
