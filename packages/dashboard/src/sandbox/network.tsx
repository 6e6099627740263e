import type { Network as Policy, SandboxInfo } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { Button, CheckField, Empty, Failure, Loading, Mono, Note, Table, TextArea } from "../ui/controls.tsx";
import { time, words } from "../ui/format.ts";
import { useNotify } from "../ui/toasts.tsx";
import { Previews } from "./previews.tsx";
import styles from "./network.module.css";

/** Refusals are read again this often while they are shown. */
const refusalsMs = 2000;

/** What a sandbox may reach, and what it was refused. */
export default function Network({ sandbox: { id } }: { readonly sandbox: SandboxInfo }): ReactNode {
  const client = useClient();
  const policy = useQuery({
    queryKey: ["sandbox", id, "network"],
    queryFn: ({ signal }) => client.network.get(id, signal),
  });
  const refusals = useQuery({
    queryKey: ["sandbox", id, "refusals"],
    queryFn: ({ signal }) => client.network.log(id, signal),
    refetchInterval: refusalsMs,
  });
  if (policy.error !== null) return <Failure error={policy.error} onRetry={() => void policy.refetch()} />;
  if (policy.data === undefined) return <Loading what="Reading the network policy" />;
  return (
    <>
      <PolicyForm key={JSON.stringify(policy.data)} id={id} policy={policy.data} />
      <Previews sandboxId={id} />
      <section className={styles["refusals"]} aria-label="Refused connections">
        <h2>Refused in the last hour</h2>
        {refusals.error === null ? null : <Failure error={refusals.error} />}
        {refusals.data?.length === 0 ? <Empty title="Nothing was refused" /> : null}
        {refusals.data === undefined || refusals.data.length === 0 ? null : (
          <Table
            label="Refused connections"
            rows={refusals.data}
            keyOf={({ protocol, host, address, port, reason }) => [protocol, host, address, port, reason].join(" ")}
            columns={[
              {
                title: "Destination",
                cell: ({ host, address, port }) => (
                  <Mono>
                    {host ?? address}
                    {port === undefined ? "" : `:${port}`}
                  </Mono>
                ),
              },
              { title: "Protocol", cell: ({ protocol }) => protocol },
              { title: "Reason", cell: ({ reason }) => reason },
              { title: "Times", isNumber: true, cell: ({ count }) => count },
              { title: "Last", isNumber: true, cell: ({ at }) => time(at) },
            ]}
          />
        )}
      </section>
    </>
  );
}

function PolicyForm({ id, policy }: { readonly id: string; readonly policy: Policy }): ReactNode {
  const client = useClient();
  const queries = useQueryClient();
  const notify = useNotify();
  const mayWrite = useMay()("sandboxes:write");
  const [isEnabled, setEnabled] = useState(policy.enabled);
  const [isLimited, setLimited] = useState(policy.egress?.allow !== undefined);
  const [allow, setAllow] = useState((policy.egress?.allow ?? []).join("\n"));
  const [deny, setDeny] = useState((policy.egress?.deny ?? []).join("\n"));

  async function save(): Promise<void> {
    try {
      const egress = {
        ...(isLimited ? { allow: words(allow) } : {}),
        ...(deny.trim() === "" ? {} : { deny: words(deny) }),
      };
      queries.setQueryData(["sandbox", id, "network"], await client.network.set(id, { enabled: isEnabled, egress }));
      notify.done("the network policy holds, for open connections too");
    } catch (failure) {
      notify.failed(failure);
    }
  }

  return (
    <form
      className={styles["policy"]}
      onSubmit={(event) => {
        event.preventDefault();
        void save();
      }}
    >
      {policy.notEnforced.length === 0 ? null : (
        <Note isWarning>This host cannot enforce the whole policy: {policy.notEnforced.join("; ")}.</Note>
      )}
      <CheckField label="Network" hint="Off: the sandbox reaches nothing" checked={isEnabled} onChange={setEnabled} />
      <CheckField
        label="Only what is allowed"
        hint="Off: the whole internet, but for what is denied"
        checked={isLimited}
        onChange={setLimited}
      />
      <div className={styles["rules"]}>
        {isLimited ? (
          <TextArea
            label="Allowed"
            hint="Names, *.names, addresses or ranges, one a line"
            value={allow}
            onChange={(event) => setAllow(event.target.value)}
          />
        ) : null}
        <TextArea
          label="Denied"
          hint="Takes precedence"
          value={deny}
          onChange={(event) => setDeny(event.target.value)}
        />
      </div>
      {mayWrite ? (
        <div>
          <Button type="submit">Apply</Button>
        </div>
      ) : null}
    </form>
  );
}
