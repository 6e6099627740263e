import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { alive, ready } from "@opensandbox/wire/public/health.ts";
import { parse } from "yaml";
import { readConfig } from "../../packages/server/src/config.ts";
import {
  chartDirectory,
  chartExamples,
  hashOfChart,
  type Manifest,
  manifestsOf,
  podsOf,
  readRendered,
  renderedDirectory,
  type Variable,
} from "./chart-files.ts";
import { unknownCommands } from "./commands.ts";
import { helmArguments, helmIsMissing } from "./helm.ts";

/** Values in the form that the settings of these secrets need. */
const secrets: Readonly<Record<string, string>> = {
  "database-url": "postgres://user:password@db/opensandbox",
  "fleet-token": "osbf1.token",
  "master-key": "ab".repeat(32),
  "object-store-key": "cd".repeat(32),
};

const renderAgain = "render the chart again: node tools/render-chart.ts";

test("the renderings are of the chart in the repository", () => {
  assert.equal(readFileSync(join(renderedDirectory, "sources.sha256"), "utf8").trim(), hashOfChart(), renderAgain);
});

for (const example of chartExamples()) {
  suite(`the chart with ${example}.values.yaml`, () => {
    test("Helm renders it to the same text", { skip: helmIsMissing() }, () => {
      const text = execFileSync("helm", helmArguments(example), { encoding: "utf8" });
      assert.equal(text, readRendered(example), renderAgain);
    });

    test("every selector chooses one kind of pod, and every port, volume and secret that is named exists", () => {
      const pods = podsOf(example);
      assert.deepEqual(pods.map(({ kind }) => kind).toSorted(), ["DaemonSet", "Deployment"]);
      for (const { kind, metadata, spec } of manifestsOf(example)) {
        const selector = kind === "Service" ? spec.selector : spec.selector.matchLabels;
        const chosen = pods.filter(({ pod }) =>
          Object.entries(selector).every(([key, value]) => pod.metadata.labels[key] === value),
        );
        assert.equal(chosen.length, 1, `${kind} ${metadata.name}`);
        const [{ pod }] = chosen as [(typeof pods)[number]];
        const ports = containersOf(pod).flatMap((each: Manifest) =>
          (each.ports ?? []).map(({ name }: Manifest) => name),
        );
        for (const { targetPort } of spec.ports ?? []) assert.ok(ports.includes(targetPort), targetPort);
      }
      for (const { pod } of pods) {
        const volumes = pod.spec.volumes.map(({ name }: Manifest) => name);
        for (const container of containersOf(pod)) {
          for (const { name } of container.volumeMounts) assert.ok(volumes.includes(name), name);
          for (const { secretKeyRef } of secretsOf(container.env)) {
            assert.ok(secretKeyRef.key in secrets, secretKeyRef.key);
          }
        }
      }
    });

    test("servers and workers accept their settings, and listen where probes, services and annotations look", () => {
      for (const { kind, pod } of podsOf(example)) {
        for (const container of containersOf(pod)) {
          const config = readConfig(environmentOf(container.env));
          assert.equal(config.mode, kind === "Deployment" ? "server" : "worker");
          if (container.ports === undefined) continue;
          const ports = new Map<string, number>(
            container.ports.map((port: Manifest) => [port.name, port.containerPort]),
          );
          assert.equal(ports.get("metrics"), config.metricsPort);
          assert.equal(ports.get("fleet"), config.fleetPort);
          if (config.mode === "server") assert.equal(ports.get("http"), config.port);
          assert.equal(pod.metadata.annotations["prometheus.io/port"], String(config.metricsPort));
          const paths = { http: [alive.path, ready.path], metrics: ["/metrics"] } as Record<string, readonly string[]>;
          for (const { httpGet } of [container.readinessProbe, container.livenessProbe].filter(Boolean)) {
            assert.ok(paths[httpGet.port]?.includes(httpGet.path), httpGet.path);
          }
          const { [kind === "Deployment" ? "/data" : config.dataDirectory]: data } = Object.fromEntries(
            container.volumeMounts.map(({ name, mountPath }: Manifest) => [mountPath, name]),
          ) as Record<string, string>;
          assert.equal(data, "data");
        }
        const fleet = manifestsOf(example).find(({ metadata }) => metadata.name === "osb-fleet");
        const [{ env }] = containersOf(pod) as [Manifest];
        const { fleetUrl } = readConfig(environmentOf(env));
        if (kind === "DaemonSet") assert.equal(fleetUrl, `https://${fleet.metadata.name}:${fleet.spec.ports[0].port}`);
      }
    });

    test("every setting is one that a server reads", () => {
      const known = new Set(
        readFileSync(join(chartDirectory, "../../../packages/server/src/config.ts"), "utf8").match(
          /OPENSANDBOX_[A-Z_]+/g,
        ),
      );
      const names = podsOf(example).flatMap(({ pod }) =>
        containersOf(pod).flatMap(({ env }: Manifest) => env.map(({ name }: Variable) => name) as string[]),
      );
      const ours = names.filter((name) => name.startsWith("OPENSANDBOX_"));
      assert.ok(ours.length > 20);
      assert.deepEqual(
        ours.filter((name) => !known.has(name)),
        [],
      );
      // A service of the release would otherwise add settings.
      for (const { pod } of podsOf(example)) assert.equal(pod.spec.enableServiceLinks, false);
    });

    test("a worker is privileged on labelled nodes, has time for its drain, and its budget is a number of pods", () => {
      const { pod } = podsOf(example).find(({ kind }) => kind === "DaemonSet")!;
      assert.deepEqual(pod.spec.nodeSelector, { "opensandbox.dev/worker": "true" });
      const [worker] = pod.spec.containers;
      assert.equal(worker.securityContext.privileged, true);
      assert.equal(worker.livenessProbe, undefined);
      const seconds = Number(
        /^timeout (\d+) osb admin drain /m.exec(worker.lifecycle.preStop.exec.command.at(-1))?.[1],
      );
      assert.ok(pod.spec.terminationGracePeriodSeconds > seconds);
      const budget = manifestsOf(example).find(
        ({ kind, metadata }) => kind === "PodDisruptionBudget" && metadata.name === "osb-worker",
      );
      assert.deepEqual(Object.keys(budget.spec).toSorted(), ["minAvailable", "selector"]);
      assert.ok(Number.isSafeInteger(budget.spec.minAvailable));
    });

    test("a server needs neither root nor capabilities", () => {
      const { pod } = podsOf(example).find(({ kind }) => kind === "Deployment")!;
      assert.equal(pod.spec.securityContext.runAsNonRoot, true);
      const [{ securityContext }] = pod.spec.containers;
      assert.deepEqual(securityContext.capabilities, { drop: ["ALL"] });
      assert.equal(securityContext.allowPrivilegeEscalation, false);
    });
  });
}

test("pods and notes run commands of the command line", () => {
  const texts = [
    ...podsOf("minimal").flatMap(({ pod }) =>
      containersOf(pod).flatMap(({ command, lifecycle }: Manifest): string[] => [
        command.join(" "),
        ...(lifecycle === undefined ? [] : [lifecycle.preStop.exec.command.join(" ")]),
      ]),
    ),
    readFileSync(join(chartDirectory, "templates/NOTES.txt"), "utf8"),
    readFileSync(join(chartDirectory, "../README.md"), "utf8"),
  ];
  assert.match(texts.join("\n"), /^osb up$/m);
  assert.deepEqual(texts.flatMap(unknownCommands), []);
});

test("the secrets of the chart are those that its README makes", () => {
  const readme = readFileSync(join(chartDirectory, "../README.md"), "utf8");
  const made = [...readme.matchAll(/--from-(?:literal|file)=([a-z-]+)=/g)].map(([, key = ""]) => key);
  assert.deepEqual(made.toSorted(), Object.keys(secrets).toSorted());
  const used = podsOf("minimal").flatMap(({ pod }) =>
    containersOf(pod).flatMap(({ env }: Manifest) => secretsOf(env).map(({ secretKeyRef }) => secretKeyRef.key)),
  );
  assert.deepEqual([...new Set(used)].toSorted(), Object.keys(secrets).toSorted());
  assert.deepEqual(parse(readFileSync(join(chartDirectory, "values.yaml"), "utf8")).existingSecret, "opensandbox");
});

function containersOf(pod: Manifest): readonly Manifest[] {
  return [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
}

function secretsOf(env: readonly Variable[]): readonly { readonly secretKeyRef: { readonly key: string } }[] {
  return env.flatMap(({ valueFrom }) =>
    valueFrom?.secretKeyRef === undefined ? [] : [{ secretKeyRef: valueFrom.secretKeyRef }],
  );
}

/** The environment that Kubernetes gives to a container, on a node whose pods have this address. */
function environmentOf(env: readonly Variable[]): Readonly<Record<string, string>> {
  const entries = env.map(({ name, value, valueFrom }): [string, string] => {
    const key = valueFrom?.secretKeyRef?.key;
    if (key !== undefined) return [name, secrets[key] ?? assert.fail(key)];
    if (valueFrom !== undefined) return [name, "10.0.0.7"];
    assert.equal(typeof value, "string", name);
    return [name, value!.replace("$(POD_ADDRESS)", "10.0.0.7")];
  });
  return Object.fromEntries(entries);
}
