import type { CreateSandbox as Request } from "@opensandbox/sdk";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useNavigate } from "@tanstack/react-router";
import { type ReactNode, useState } from "react";
import { useClient, useMay } from "../session/signed-in.tsx";
import { CheckField, SelectField, TextArea, TextField } from "../ui/controls.tsx";
import { FormDialog } from "../ui/dialog.tsx";
import { pairs, words } from "../ui/format.ts";
import { showSandbox } from "./queries.ts";
import styles from "./sandboxes.module.css";

interface Choices {
  readonly alias: string;
  /** `image NAME`, or `snapshot NAME` for an image of one's own. */
  readonly source: string;
  readonly vcpus: string;
  readonly memoryMib: string;
  readonly diskMib: string;
  readonly idleTimeoutSeconds: string;
  readonly network: "all" | "some" | "none";
  readonly allow: string;
  readonly deny: string;
  readonly envs: string;
  readonly metadata: string;
  readonly port: string;
  readonly secretStore: string;
  readonly ephemeral: boolean;
}

const nothing: Choices = {
  alias: "",
  source: "image default",
  vcpus: "",
  memoryMib: "",
  diskMib: "",
  idleTimeoutSeconds: "",
  network: "all",
  allow: "",
  deny: "",
  envs: "",
  metadata: "",
  port: "",
  secretStore: "",
  ephemeral: false,
};

export default function CreateSandbox({
  isOpen,
  onClose,
}: {
  readonly isOpen: boolean;
  readonly onClose: () => void;
}): ReactNode {
  const client = useClient();
  const may = useMay();
  const queries = useQueryClient();
  const navigate = useNavigate();
  const [choices, setChoices] = useState(nothing);
  const [steps, setSteps] = useState<readonly string[]>([]);
  const images = useQuery({
    queryKey: ["images"],
    queryFn: ({ signal }) => client.images.list(signal),
    enabled: isOpen && may("images:read"),
  });
  const stores = useQuery({
    queryKey: ["secret-stores"],
    queryFn: ({ signal }) => client.secrets.listStores(signal),
    enabled: isOpen && may("secrets:read"),
  });
  const set = <Name extends keyof Choices>(name: Name) => {
    return (value: Choices[Name]): void => setChoices((before) => ({ ...before, [name]: value }));
  };
  const text = (name: keyof Omit<Choices, "ephemeral" | "network">) => ({
    value: choices[name],
    onChange: (event: { readonly target: { readonly value: string } }): void => set(name)(event.target.value),
  });

  async function create(): Promise<void> {
    setSteps([]);
    try {
      const onProgress = (step: string): void => setSteps((before) => [...before, step]);
      const sandbox = await client.sandboxes.create(requestOf(choices), { onProgress });
      showSandbox(queries, sandbox);
      onClose();
      setChoices(nothing);
      await navigate({ to: "/sandboxes/$id/$view", params: { id: sandbox.id, view: "terminal" } });
    } finally {
      setSteps([]);
    }
  }

  const own = (images.data ?? []).filter(({ name, status }) => name !== "" && status === "ready");
  return (
    <FormDialog title="New sandbox" action="Create" busyAction="Creating…" {...{ isOpen, onClose }} onSubmit={create}>
      <TextField label="Name" placeholder="optional" maxLength={255} {...text("alias")} />
      <SelectField
        label="Image"
        value={choices.source}
        onChange={set("source")}
        choices={[
          { value: "image default", label: "default: Debian with Python, Node and Git" },
          { value: "image minimal", label: "minimal: a small Debian" },
          ...own.map(({ name }) => ({ value: `snapshot ${name}`, label: name })),
        ]}
      />
      <div className={styles["pair"]}>
        <TextField label="vCPUs" type="number" min={1} max={16} placeholder="default" {...text("vcpus")} />
        <TextField
          label="Memory (MiB)"
          type="number"
          min={128}
          step={128}
          placeholder="default"
          {...text("memoryMib")}
        />
        <TextField
          label="Workspace (MiB)"
          type="number"
          min={20_480}
          step={1024}
          placeholder="20480"
          {...text("diskMib")}
        />
      </div>
      <SelectField
        label="Network"
        value={choices.network}
        onChange={(value) => set("network")(value as Choices["network"])}
        choices={[
          { value: "all", label: "the whole internet" },
          { value: "some", label: "only what is allowed below" },
          { value: "none", label: "none" },
        ]}
      />
      {choices.network === "none" ? null : (
        <div className={styles["pair"]}>
          {choices.network === "some" ? (
            <TextArea
              label="Allowed"
              hint="Names, *.names, addresses or ranges"
              placeholder="pypi.org"
              {...text("allow")}
            />
          ) : null}
          <TextArea label="Denied" hint="Takes precedence" placeholder="none" {...text("deny")} />
        </div>
      )}
      <details className={styles["more"]}>
        <summary>More options</summary>
        <div>
          <TextField
            label="Hibernate after idle seconds"
            hint="0 or empty: never"
            type="number"
            min={0}
            {...text("idleTimeoutSeconds")}
          />
          <CheckField
            label="Delete instead of hibernating"
            hint="Ends with its idle timeout and with the server"
            checked={choices.ephemeral}
            onChange={set("ephemeral")}
          />
          <TextArea label="Environment" hint="KEY=VALUE, one a line" {...text("envs")} />
          <TextArea label="Labels" hint="KEY=VALUE, one a line" {...text("metadata")} />
          <TextField
            label="Published port"
            hint="A port of the sandbox that a port of this server forwards to"
            type="number"
            min={1}
            max={65_535}
            {...text("port")}
          />
          {(stores.data ?? []).length === 0 ? null : (
            <SelectField
              label="Secret store"
              hint="Its secrets are used by the sandbox and never seen by it"
              value={choices.secretStore}
              onChange={set("secretStore")}
              choices={[
                { value: "", label: "none" },
                ...(stores.data ?? []).map(({ name }) => ({ value: name, label: name })),
              ]}
            />
          )}
        </div>
      </details>
      {steps.length === 0 ? null : (
        <div className={styles["progress"]} role="status">
          {steps.slice(-6).map((step) => (
            <span key={step}>{step}</span>
          ))}
        </div>
      )}
    </FormDialog>
  );
}

/** @throws for a line of the environment or of the labels that is not KEY=VALUE */
function requestOf(choices: Choices): Request {
  const [kind = "image", ...name] = choices.source.split(" ");
  const egress = {
    ...(choices.network === "some" ? { allow: words(choices.allow) } : {}),
    ...(choices.deny.trim() === "" ? {} : { deny: words(choices.deny) }),
  };
  const number = (key: "vcpus" | "memoryMib" | "diskMib" | "idleTimeoutSeconds" | "port") =>
    choices[key] === "" ? {} : { [key]: Number(choices[key]) };
  return {
    ...(kind === "image" ? { image: name.join(" ") } : { snapshot: name.join(" ") }),
    ...(choices.alias.trim() === "" ? {} : { alias: choices.alias.trim() }),
    ...number("vcpus"),
    ...number("memoryMib"),
    ...number("diskMib"),
    ...number("idleTimeoutSeconds"),
    ...number("port"),
    ...(choices.network === "none" ? { networkEnabled: false } : Object.keys(egress).length === 0 ? {} : { egress }),
    ...(choices.envs.trim() === "" ? {} : { envs: pairs(choices.envs) }),
    ...(choices.metadata.trim() === "" ? {} : { metadata: pairs(choices.metadata) }),
    ...(choices.secretStore === "" ? {} : { secretStore: choices.secretStore }),
    ...(choices.ephemeral ? { ephemeral: true } : {}),
  };
}
