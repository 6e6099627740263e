import type { MessageInitShape } from "@bufbuild/protobuf";
import type { EgressRules, NetworkPolicy } from "../../egress.ts";
import type { SandboxId, SnapshotId } from "../../ids.ts";
import type {
  GuestRequest,
  HeldSandbox,
  NetworkRefusal,
  Progress,
  ReadyMachinesState,
  SandboxEnd,
  SandboxSecrets,
  SandboxSize,
  StartedSandbox,
  StartFrom,
  StartSandbox,
  WorkerDescription,
} from "../worker.ts";
import type { WorkerStatus } from "../status.ts";
import type * as pb from "./worker_pb.js";

// Conversions between the interface `Worker` and the messages of its wire. A word that this version does not know, from a
// newer peer, becomes the closest word that it knows.

export function descriptionToWire(description: WorkerDescription): MessageInitShape<typeof pb.WorkerDescriptionSchema> {
  const { hypervisor, hypervisorVersion, accelerator, network, images, objectStore, leaseSeconds } = description;
  const { secrets = false } = description;
  return {
    hypervisor,
    hypervisorVersion,
    accelerator,
    network: { name: network.mode, reason: network.reason },
    networkNotEnforced: [...(network.notEnforced ?? [])],
    images: [...images],
    ...(objectStore === undefined ? {} : { objectStore }),
    ...(leaseSeconds === undefined ? {} : { leaseSeconds }),
    secrets,
  };
}

export function descriptionFromWire(description: pb.WorkerDescription | undefined): WorkerDescription {
  const {
    hypervisor = "",
    hypervisorVersion = "",
    accelerator,
    network,
    networkNotEnforced = [],
    images = [],
    objectStore,
    leaseSeconds,
    secrets = false,
  } = description ?? {};
  return {
    hypervisor: oneOf(["qemu", "firecracker", "fake"], hypervisor),
    hypervisorVersion,
    accelerator: { name: accelerator?.name ?? "", reason: accelerator?.reason ?? "" },
    network: {
      mode: network?.name ?? "",
      reason: network?.reason ?? "",
      ...(networkNotEnforced.length === 0 ? {} : { notEnforced: networkNotEnforced }),
    },
    images,
    ...(objectStore === undefined ? {} : { objectStore }),
    ...(leaseSeconds === undefined ? {} : { leaseSeconds }),
    ...(secrets ? { secrets } : {}),
  };
}

export function startToWire(request: StartSandbox): MessageInitShape<typeof pb.StartSandboxRequestSchema> {
  const { id, generation, organizationId, organizationNumber, from, vcpus, workspaceMib, envs } = request;
  return {
    sandboxId: id,
    generation,
    organizationId,
    ...(organizationNumber === undefined ? {} : { organizationNumber }),
    from: startFromToWire(from),
    ...{ vcpus, workspaceMib, ...sizeToWire(request) },
    envs: { ...envs },
    networkEnabled: request.networkEnabled,
    ...egressToWire(request.egress),
    ...(request.secrets === undefined ? {} : { secrets: secretsToWire(request.secrets) }),
  };
}

export function secretsToWire({
  authority,
  secrets,
}: SandboxSecrets): Omit<MessageInitShape<typeof pb.SandboxSecretsSchema>, "$typeName"> {
  const { certificate = "", privateKey = "" } = authority ?? {};
  const sealed = secrets.map(({ name, sealed, value, hosts }) => ({ name, sealed, value, hosts: [...hosts] }));
  return { certificate, privateKey, secrets: sealed };
}

export function secretsFromWire({ certificate, privateKey, secrets }: pb.SandboxSecrets): SandboxSecrets {
  return {
    authority: { certificate, privateKey },
    secrets: secrets.map(({ name, sealed, value, hosts }) => ({ name, sealed, value, hosts })),
  };
}

export function startFromWire(message: pb.StartSandboxRequest): StartSandbox {
  const { sandboxId, generation, organizationId, organizationNumber, vcpus, workspaceMib, envs } = message;
  const { networkEnabled, egress } = message;
  return {
    id: sandboxId as SandboxId,
    generation,
    organizationId,
    ...(organizationNumber === undefined ? {} : { organizationNumber }),
    from: startFromFromWire(message.from),
    ...{ vcpus, workspaceMib, envs, networkEnabled, ...sizeFromWire(message) },
    ...egressFromWire(egress),
    ...(message.secrets === undefined ? {} : { secrets: secretsFromWire(message.secrets) }),
  };
}

/** The size of a start or of a change. */
export function sizeToWire({ memoryMib, cpuPercent, maxPids }: SandboxSize) {
  return {
    memoryMib,
    ...(cpuPercent === undefined ? {} : { cpuPercent }),
    ...(maxPids === undefined ? {} : { maxPids }),
  };
}

export function sizeFromWire({ memoryMib, cpuPercent, maxPids }: SandboxSize): SandboxSize {
  return {
    memoryMib,
    ...(cpuPercent === undefined ? {} : { cpuPercent }),
    ...(maxPids === undefined ? {} : { maxPids }),
  };
}

function startFromToWire(from: StartFrom): NonNullable<MessageInitShape<typeof pb.StartSandboxRequestSchema>["from"]> {
  if (from.kind === "image") return { case: "image", value: { image: from.image } };
  const { snapshotId, identity } = from;
  return { case: "snapshot", value: { snapshotId, newIdentity: identity === "new", public: from.public ?? false } };
}

function startFromFromWire(from: pb.StartSandboxRequest["from"]): StartFrom {
  if (from.case !== "snapshot") return { kind: "image", image: from.value?.image ?? "" };
  const { snapshotId, newIdentity, public: isPublic } = from.value;
  return {
    kind: "snapshot",
    snapshotId: snapshotId as SnapshotId,
    identity: newIdentity ? "new" : "same",
    public: isPublic,
  };
}

export function policyToWire({
  enabled,
  egress,
}: NetworkPolicy): Omit<MessageInitShape<typeof pb.SetNetworkPolicyRequestSchema>, "$typeName"> {
  return { enabled, ...egressToWire(egress) };
}

export function policyFromWire({ enabled, egress }: pb.SetNetworkPolicyRequest): NetworkPolicy {
  return { enabled, ...egressFromWire(egress) };
}

function egressToWire(egress: EgressRules | undefined): { egress?: MessageInitShape<typeof pb.EgressRulesSchema> } {
  if (egress === undefined) return {};
  const { allow, deny, headers = {} } = egress;
  return {
    egress: {
      ...(allow === undefined ? {} : { allow: { targets: [...allow] } }),
      ...(deny === undefined ? {} : { deny: { targets: [...deny] } }),
      headers: Object.fromEntries(Object.entries(headers).map(([host, own]) => [host, { headers: { ...own } }])),
    },
  };
}

function egressFromWire(egress: pb.EgressRules | undefined): { egress?: EgressRules } {
  if (egress === undefined) return {};
  const { allow, deny, headers } = egress;
  const byHost = Object.entries(headers).map(([host, own]) => [host, { ...own.headers }] as const);
  return {
    egress: {
      ...(allow === undefined ? {} : { allow: allow.targets }),
      ...(deny === undefined ? {} : { deny: deny.targets }),
      ...(byHost.length === 0 ? {} : { headers: Object.fromEntries(byHost) }),
    },
  };
}

export function progressFromWire({ step, percent }: pb.Progress): Progress {
  return { step, ...(percent === undefined ? {} : { percent }) };
}

export function startedToWire({
  restoredFrom,
  restoredBecause,
  spans,
}: StartedSandbox): MessageInitShape<typeof pb.StartedSandboxSchema> {
  return {
    restoredFrom,
    ...(restoredBecause === undefined ? {} : { restoredBecause }),
    spans: spans.map(({ name, milliseconds }) => ({ name, milliseconds })),
  };
}

export function startedFromWire({ restoredFrom, restoredBecause, spans }: pb.StartedSandbox): StartedSandbox {
  return {
    restoredFrom: oneOf(["disk", "memory"], restoredFrom),
    ...(restoredBecause === undefined ? {} : { restoredBecause }),
    spans: spans.map(({ name, milliseconds }) => ({ name, milliseconds })),
  };
}

export function heldToWire({ id, lacksSecrets, ...rest }: HeldSandbox): MessageInitShape<typeof pb.HeldSandboxSchema> {
  return { sandboxId: id, lacksSecrets: lacksSecrets === true, ...rest };
}

export function heldFromWire({ sandboxId, generation, memoryMib, running, lacksSecrets }: pb.HeldSandbox): HeldSandbox {
  return { id: sandboxId as SandboxId, generation, memoryMib, running, ...(lacksSecrets ? { lacksSecrets } : {}) };
}

export function endFromWire({ reason, detail }: pb.SandboxEnd): SandboxEnd {
  return { reason: oneOf(["exited", "stopped", "reset"], reason), detail };
}

export function refusalFromWire(refusal: pb.NetworkRefusal): NetworkRefusal {
  const { at, count, protocol, host, address, port, reason } = refusal;
  return {
    ...{ at, count, reason },
    protocol: oneOf(["tcp", "udp", "icmp", "dns", "tls", "http"], protocol),
    ...(host === undefined ? {} : { host }),
    ...(address === undefined ? {} : { address }),
    ...(port === undefined ? {} : { port }),
  };
}

export function guestRequestToWire(request: GuestRequest): MessageInitShape<typeof pb.GuestRequestSchema> {
  const { requestId, sandboxId, kind, body } = request;
  return { requestId, sandboxId, kind, bodyJson: JSON.stringify(body) ?? "" };
}

/** Undefined for a kind of request that this version does not know. */
export function guestRequestFromWire({
  requestId,
  sandboxId,
  kind,
  bodyJson,
}: pb.GuestRequest): GuestRequest | undefined {
  if (kind !== "scale") return undefined;
  return {
    requestId,
    sandboxId: sandboxId as SandboxId,
    kind,
    body: bodyJson === "" ? undefined : JSON.parse(bodyJson),
  };
}

export function readyMachinesToWire({
  templates,
  ...counts
}: ReadyMachinesState): MessageInitShape<typeof pb.ReadyMachinesReplySchema> {
  const [first] = templates;
  const older = first === undefined ? {} : { image: first.image, memoryMib: first.memoryMib, vcpus: first.vcpus };
  return { ...counts, ...older, templates: templates.map((template) => ({ ...template })) };
}

export function readyMachinesFromWire(reply: pb.ReadyMachinesReply): ReadyMachinesState {
  const { wanted, ready, image, memoryMib = 0, vcpus = 0 } = reply;
  const templates = reply.templates.map((template) => ({
    ...{ image: template.image, memoryMib: template.memoryMib, vcpus: template.vcpus },
    ...{ wanted: template.wanted, ready: template.ready },
  }));
  // An older worker has machines of one template only.
  const isOlder = templates.length === 0 && image !== undefined;
  return { wanted, ready, templates: isOlder ? [{ image, memoryMib, vcpus, wanted, ready }] : templates };
}

export function statusToWire({ readyMachines, ...rest }: WorkerStatus): MessageInitShape<typeof pb.StatusReplySchema> {
  return { ...rest, readyMachines: readyMachinesToWire(readyMachines) };
}

export function statusFromWire(reply: pb.StatusReply): WorkerStatus {
  const { workerId, instance, freeMemoryMib, totalMemoryMib, freeDiskShare, cpuModel, readyMachines } = reply;
  return {
    ...{ workerId, instance, freeMemoryMib, totalMemoryMib, freeDiskShare, cpuModel },
    readyMachines:
      readyMachines === undefined ? { wanted: 0, ready: 0, templates: [] } : readyMachinesFromWire(readyMachines),
  };
}

/** The word if this version knows it, and otherwise the first known word. */
function oneOf<const Word extends string>(known: readonly [Word, ...Word[]], word: string): Word {
  return known.find((each) => each === word) ?? known[0];
}
