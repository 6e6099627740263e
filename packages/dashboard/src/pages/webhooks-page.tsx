import type { Webhook } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Page } from "../shell/page.tsx";
import { Button, Empty, Failure, Loading, Mono, RowActions, State, Table, Tag, TextField } from "../ui/controls.tsx";
import { Confirm, Dialog, FormDialog } from "../ui/dialog.tsx";
import { time, words } from "../ui/format.ts";
import { Icon } from "../ui/icons.tsx";
import { Menu } from "../ui/menu.tsx";
import { useNotify } from "../ui/toasts.tsx";
import styles from "./pages.module.css";

/** URLs that events are sent to, with their deliveries. */
export function WebhooksPage(): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("admin:write");
  const [isAdding, setAdding] = useState(false);
  const [shown, setShown] = useState<Webhook>();
  const [asked, setAsked] = useState<Webhook>();
  const [secret, setSecret] = useState<string>();
  const { data, error, refetch } = useQuery({
    queryKey: ["webhooks"],
    queryFn: ({ signal }) => client.webhooks.list(signal),
  });

  async function work(run: () => Promise<string>): Promise<void> {
    try {
      notify.done(await run());
    } catch (failure) {
      notify.failed(failure);
    }
    await queries.invalidateQueries({ queryKey: ["webhooks"] });
  }

  const entriesOf = (webhook: Webhook) => [
    { label: "Deliveries", onSelect: () => setShown(webhook) },
    ...(mayWrite
      ? [
          {
            label: "Send a test",
            onSelect: () =>
              void work(async () => {
                await client.webhooks.test(webhook.id);
                return "a sample event is on its way";
              }),
          },
          {
            label: "Show the secret",
            onSelect: () => void client.webhooks.secret(webhook.id).then(setSecret, notify.failed),
          },
          {
            label: webhook.enabled ? "Disable" : "Enable",
            onSelect: () =>
              void work(async () => {
                await client.webhooks.update(webhook.id, { enabled: !webhook.enabled });
                return `${webhook.url} is ${webhook.enabled ? "disabled" : "enabled"}`;
              }),
          },
          { label: "Delete", isDangerous: true, onSelect: () => setAsked(webhook) },
        ]
      : []),
  ];

  return (
    <Page
      title="Webhooks"
      lead="URLs that events of sandboxes are sent to"
      actions={
        mayWrite ? (
          <Button look="primary" onClick={() => setAdding(true)}>
            <Icon name="plus" /> Add a webhook
          </Button>
        ) : undefined
      }
    >
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the webhooks" /> : null}
      {data?.length === 0 ? <Empty title="No webhooks" /> : null}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label="Webhooks"
          rows={data}
          keyOf={({ id }) => id}
          columns={[
            {
              title: "URL",
              cell: ({ url, name }) => (
                <>
                  {name === undefined ? null : <strong>{name} </strong>}
                  <Mono>{url}</Mono>
                </>
              ),
            },
            {
              title: "Events",
              cell: ({ eventTypes }) =>
                eventTypes.length === 0 ? "all" : eventTypes.map((type) => <Tag key={type}>{type}</Tag>),
            },
            { title: "State", cell: ({ enabled }) => (enabled ? "enabled" : "disabled") },
            {
              title: "",
              cell: (webhook) => (
                <RowActions>
                  <Menu label={`Actions of ${webhook.url}`} entries={entriesOf(webhook)} />
                </RowActions>
              ),
            },
          ]}
        />
      )}
      <AddWebhook isOpen={isAdding} onClose={() => setAdding(false)} onSecret={setSecret} />
      {shown === undefined ? null : <Deliveries webhook={shown} onClose={() => setShown(undefined)} />}
      <Dialog title="Signing secret" isOpen={secret !== undefined} onClose={() => setSecret(undefined)}>
        <p>The receiver verifies the signature of each request with it.</p>
        <code className={styles["secret"]}>{secret}</code>
      </Dialog>
      <Confirm
        title="Delete the webhook?"
        action="Delete"
        isOpen={asked !== undefined}
        onClose={() => setAsked(undefined)}
        onConfirm={() => {
          if (asked === undefined) return;
          void work(async () => {
            await client.webhooks.delete(asked.id);
            return `${asked.url} gets no more events`;
          });
        }}
      >
        <p>Nothing more is sent to {asked?.url}.</p>
      </Confirm>
    </Page>
  );
}

interface AddWebhookProps {
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly onSecret: (secret: string) => void;
}

function AddWebhook({ isOpen, onClose, onSecret }: AddWebhookProps): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const [url, setUrl] = useState("");
  const [name, setName] = useState("");
  const [types, setTypes] = useState("");

  async function add(): Promise<void> {
    const { secret } = await client.webhooks.create({
      url: url.trim(),
      ...(name.trim() === "" ? {} : { name: name.trim() }),
      ...(types.trim() === "" ? {} : { eventTypes: words(types) }),
    });
    setUrl("");
    setName("");
    setTypes("");
    onClose();
    onSecret(secret);
    await queries.invalidateQueries({ queryKey: ["webhooks"] });
  }

  return (
    <FormDialog title="Add a webhook" action="Add" {...{ isOpen, onClose }} onSubmit={add}>
      <TextField label="URL" type="url" required value={url} onChange={(event) => setUrl(event.target.value)} />
      <TextField label="Name" placeholder="optional" value={name} onChange={(event) => setName(event.target.value)} />
      <TextField
        label="Events"
        hint="Types such as sandbox.created or sandbox.checkpoint.*; empty: all"
        value={types}
        onChange={(event) => setTypes(event.target.value)}
      />
    </FormDialog>
  );
}

function Deliveries({
  webhook: { id, url },
  onClose,
}: {
  readonly webhook: Webhook;
  readonly onClose: () => void;
}): ReactNode {
  const client = useClient();
  const notify = useNotify();
  const mayWrite = useMay()("admin:write");
  const { data, error, refetch } = useQuery({
    queryKey: ["webhooks", id, "deliveries"],
    queryFn: ({ signal }) => client.webhooks.deliveries(id, signal),
    refetchInterval: 3000,
  });
  return (
    <Dialog title={`Deliveries to ${url}`} isOpen isWide onClose={onClose}>
      {error === null ? null : <Failure error={error} onRetry={() => void refetch()} />}
      {data === undefined && error === null ? <Loading what="Reading the deliveries" /> : null}
      {data?.length === 0 ? <Empty title="Nothing was sent" /> : null}
      {data === undefined || data.length === 0 ? null : (
        <Table
          label="Deliveries"
          rows={data}
          keyOf={(delivery) => delivery.id}
          columns={[
            { title: "Event", cell: ({ eventType }) => eventType },
            { title: "State", cell: ({ status }) => <State of={status} /> },
            { title: "Answer", cell: ({ responseStatus, error: why }) => responseStatus ?? why ?? "" },
            { title: "Attempts", isNumber: true, cell: ({ attempts }) => attempts },
            { title: "Happened", isNumber: true, cell: ({ createdAt }) => time(createdAt) },
            {
              title: "",
              cell: (delivery) =>
                mayWrite ? (
                  <RowActions>
                    <Button
                      isSmall
                      onClick={() => {
                        client.webhooks.redeliver(id, delivery.id).then(() => refetch(), notify.failed);
                      }}
                    >
                      Send again
                    </Button>
                  </RowActions>
                ) : null,
            },
          ]}
        />
      )}
    </Dialog>
  );
}
