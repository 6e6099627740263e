import type { StoredApiKey } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import {
  Button,
  CheckField,
  Empty,
  Failure,
  Loading,
  Mono,
  Note,
  RowActions,
  State,
  Table,
  Tag,
  TextField,
} from "../ui/controls.tsx";
import { Confirm, Dialog, FormDialog } from "../ui/dialog.tsx";
import { time } from "../ui/format.ts";
import { Icon } from "../ui/icons.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./pages.module.css";

/** Every scope that a key can have. A scope to write includes the one to read. */
const everyScope = ["sandboxes", "images", "secrets", "admin"].flatMap((area) => [`${area}:read`, `${area}:write`]);

/** The keys of the organization: their list, new ones, and their revocation. */
export function KeysPage(): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("admin:write");
  const [isCreating, setCreating] = useState(false);
  const [created, setCreated] = useState<string>();
  const [asked, setAsked] = useState<StoredApiKey>();
  const { data, error, refetch } = useQuery({
    queryKey: ["api-keys"],
    queryFn: ({ signal }) => client.apiKeys.list(signal),
  });

  async function revoke({ id, name }: StoredApiKey): Promise<void> {
    try {
      await client.apiKeys.revoke(id);
      notify.done(`the key ${name} is revoked`);
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["api-keys"] });
  }

  return (
    <Page
      title="API keys"
      lead="What programs and people sign in with. The server stores only a hash of each key"
      actions={
        mayWrite ? (
          <Button look="primary" onClick={() => setCreating(true)}>
            <Icon name="plus" /> New key
          </Button>
        ) : undefined
      }
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the keys" /> : null}
      {data?.length === 0 ? <Empty title="No API keys" /> : null}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label="API keys"
          rows={data}
          keyOf={({ id }) => id}
          columns={[
            { title: "Name", cell: (key) => <NameCell of={key} /> },
            { title: "Scopes", cell: ({ scopes }) => scopes.map((scope) => <Tag key={scope}>{scope}</Tag>) },
            { title: "State", cell: (key) => <StateCell of={key} /> },
            {
              title: "Last use",
              isNumber: true,
              cell: ({ lastUsedAt }) => (lastUsedAt === undefined ? "never" : time(lastUsedAt)),
            },
            {
              title: "",
              cell: (key) =>
                mayWrite && key.revokedAt === undefined ? (
                  <RowActions>
                    <Button
                      isSmall
                      look="danger"
                      aria-label={`Revoke ${key.name} (${key.prefix})`}
                      onClick={() => setAsked(key)}
                    >
                      Revoke
                    </Button>
                  </RowActions>
                ) : null,
            },
          ]}
        />
      )}
      <CreateKey isOpen={isCreating} onClose={() => setCreating(false)} onCreated={setCreated} />
      <Dialog title="The new key" isOpen={created !== undefined} onClose={() => setCreated(undefined)}>
        <p>Copy it now: it cannot be shown again.</p>
        <code className={styles["secret"]}>{created}</code>
      </Dialog>
      <Confirm
        title={`Revoke ${asked?.name}?`}
        action="Revoke"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => {
          if (asked !== undefined) void revoke(asked);
        }}
      >
        <p>
          Calls with {asked?.prefix}… are refused at once, and its open streams end within a minute. A revoked key stays
          revoked.
        </p>
        {asked?.current === true ? <Note>This session was opened with the key, so it ends too.</Note> : null}
      </Confirm>
    </Page>
  );
}

function NameCell({ of: { name, prefix, current } }: { readonly of: StoredApiKey }): ReactNode {
  return (
    <>
      <strong>{name}</strong> {current ? <Tag>this session</Tag> : null}
      <div>
        <Mono>{prefix}…</Mono>
      </div>
    </>
  );
}

function StateCell({ of: { revokedAt, expiresAt } }: { readonly of: StoredApiKey }): ReactNode {
  if (revokedAt !== undefined) return <State of="stopped" label="revoked" />;
  if (expiresAt === undefined) return <State of="ready" label="active" />;
  const day = expiresAt.slice(0, 10);
  const isExpired = Date.parse(expiresAt) <= Date.now();
  return isExpired ? <State of="stopped" label={`expired ${day}`} /> : <State of="ready" label={`until ${day}`} />;
}

interface CreateKeyProps {
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onCreated: (key: string) => void;
}

function CreateKey({ isOpen, onClose, onCreated }: CreateKeyProps): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const may = useMay();
  const [name, setName] = useState("");
  const [chosen, setChosen] = useState<ReadonlySet<string>>(() => new Set(["sandboxes:write"].filter(may)));
  const [days, setDays] = useState("90");

  function choose(scope: string, isChosen: boolean): void {
    const others = [...chosen].filter((each) => each !== scope);
    setChosen(new Set(isChosen ? [...others, scope] : others));
  }

  async function create(): Promise<void> {
    const { key } = await client.apiKeys.create({
      ...{ name: name.trim(), scopes: [...chosen] },
      ...(days.trim() === "" ? {} : { expiresInDays: Number(days) }),
    });
    setName("");
    onClose();
    onCreated(key);
    await queries.invalidateQueries({ queryKey: ["api-keys"] });
  }

  return (
    <FormDialog
      title="New API key"
      action="Create"
      isReady={name.trim() !== "" && chosen.size > 0}
      {...{ isOpen, onClose }}
      onSubmit={create}
    >
      <TextField label="Name" required maxLength={255} value={name} onChange={(event) => setName(event.target.value)} />
      <TextField
        label="Days until it expires"
        hint="Empty: it does not expire"
        type="number"
        min={1}
        max={3650}
        value={days}
        onChange={(event) => setDays(event.target.value)}
      />
      <fieldset className={styles["scopes"]}>
        <legend>Scopes</legend>
        {everyScope.filter(may).map((scope) => (
          <CheckField
            key={scope}
            label={scope}
            checked={chosen.has(scope)}
            onChange={(isChosen) => choose(scope, isChosen)}
          />
        ))}
      </fieldset>
    </FormDialog>
  );
}
