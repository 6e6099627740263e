import type { SecretStore } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Button, Empty, Failure, Loading, Mono, RowActions, Table, Tag, TextArea, TextField } from "../ui/controls.tsx";
import { Confirm, FormDialog } from "../ui/dialog.tsx";
import { time, words } from "../ui/format.ts";
import { Icon } from "../ui/icons.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./pages.module.css";

/** Stores of secrets. Values go in and never come out. */
export function SecretsPage(): ReactNode {
  const client = useClient();
  const mayWrite = useMay()("secrets:write");
  const [isAdding, setAdding] = useState(false);
  const { data, error, refetch } = useQuery({
    queryKey: ["secret-stores"],
    queryFn: ({ signal }) => client.secrets.listStores(signal),
  });
  return (
    <Page
      title="Secrets"
      lead="Values that sandboxes use in requests to allowed hosts, and never see"
      actions={
        mayWrite ? (
          <Button look="primary" onClick={() => setAdding(true)}>
            <Icon name="plus" /> New store
          </Button>
        ) : undefined
      }
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the stores" /> : null}
      {data?.length === 0 ? <Empty title="No secret stores" /> : null}
      {data?.map((store) => (
        <Store key={store.id} store={store} mayWrite={mayWrite} />
      ))}
      <AddStore isOpen={isAdding} onClose={() => setAdding(false)} />
    </Page>
  );
}

function Store({ store, mayWrite }: { readonly store: SecretStore; readonly mayWrite: boolean }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const [isAdding, setAdding] = useState(false);
  const [asked, setAsked] = useState<{ readonly secret?: string }>();
  const { data, error, refetch } = useQuery({
    queryKey: ["secrets", store.id],
    queryFn: ({ signal }) => client.secrets.list(store.id, signal),
  });

  async function remove(secret: string | undefined): Promise<void> {
    try {
      if (secret === undefined) await client.secrets.deleteStore(store.id);
      else await client.secrets.delete(store.id, secret);
      notify.done(`${secret ?? store.name} is deleted`);
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: secret === undefined ? ["secret-stores"] : ["secrets", store.id] });
  }

  return (
    <section className={styles["store"]} aria-label={`Store ${store.name}`}>
      <header>
        <h2>{store.name}</h2>
        {mayWrite ? (
          <RowActions>
            <Button isSmall onClick={() => setAdding(true)}>
              Set a secret
            </Button>
            <Button isSmall look="danger" onClick={() => setAsked({})}>
              Delete
            </Button>
          </RowActions>
        ) : null}
      </header>
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data?.length === 0 ? <p className={styles["quiet"]}>It has no secrets.</p> : null}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label={`Secrets of ${store.name}`}
          rows={data}
          keyOf={({ name }) => name}
          columns={[
            { title: "Name", cell: ({ name }) => <Mono>{name}</Mono> },
            { title: "Hosts", cell: ({ hosts }) => hosts.map((host) => <Tag key={host}>{host}</Tag>) },
            { title: "Changed", isNumber: true, cell: ({ updatedAt }) => time(updatedAt) },
            {
              title: "",
              cell: ({ name }) =>
                mayWrite ? (
                  <RowActions>
                    <Button isSmall look="danger" onClick={() => setAsked({ secret: name })}>
                      Delete
                    </Button>
                  </RowActions>
                ) : null,
            },
          ]}
        />
      )}
      <SetSecret storeId={store.id} isOpen={isAdding} onClose={() => setAdding(false)} />
      <Confirm
        title={`Delete ${asked?.secret ?? store.name}?`}
        action="Delete"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => void remove(asked?.secret)}
      >
        <p>Running sandboxes cannot use {asked?.secret === undefined ? "its secrets" : "it"} any more.</p>
      </Confirm>
    </section>
  );
}

function AddStore({ isOpen, onClose }: { readonly isOpen: boolean; readonly onClose: () => void }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const [name, setName] = useState("");
  async function add(): Promise<void> {
    await client.secrets.createStore({ name: name.trim() });
    setName("");
    onClose();
    await queries.invalidateQueries({ queryKey: ["secret-stores"] });
  }
  return (
    <FormDialog title="New secret store" action="Create" {...{ isOpen, onClose }} onSubmit={add}>
      <TextField
        label="Name"
        hint="Sandboxes are created with the name of their store"
        required
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
    </FormDialog>
  );
}

interface SetSecretProps {
  readonly storeId: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
}

function SetSecret({ storeId, isOpen, onClose }: SetSecretProps): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const [name, setName] = useState("");
  const [value, setValue] = useState("");
  const [hosts, setHosts] = useState("");
  async function set(): Promise<void> {
    await client.secrets.set(storeId, {
      ...{ name: name.trim(), value },
      ...(hosts.trim() === "" ? {} : { hosts: words(hosts) }),
    });
    setName("");
    setValue("");
    setHosts("");
    onClose();
    await queries.invalidateQueries({ queryKey: ["secrets", storeId] });
  }
  return (
    <FormDialog title="Set a secret" action="Set" {...{ isOpen, onClose }} onSubmit={set}>
      <TextField
        label="Name"
        placeholder="API_KEY"
        required
        value={name}
        onChange={(event) => setName(event.target.value)}
      />
      <TextField
        label="Value"
        hint="It cannot be read again"
        type="password"
        autoComplete="off"
        required
        value={value}
        onChange={(event) => setValue(event.target.value)}
      />
      <TextArea
        label="Hosts"
        hint="The hosts whose requests get the value"
        placeholder="api.example.com"
        value={hosts}
        onChange={(event) => setHosts(event.target.value)}
      />
    </FormDialog>
  );
}
