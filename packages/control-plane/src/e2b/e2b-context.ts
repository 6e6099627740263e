import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { isSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";
import { parseSandboxId, sandboxIdPattern, type SandboxId } from "@opensandbox/wire/ids.ts";
import { type Access, type SandboxFacts } from "@opensandbox/wire/e2b/sandboxes.ts";
import type { FastifyRequest } from "fastify";
import type { ApiContext } from "#http/api-context.ts";
import type { LifetimeStore } from "#lifetimes/lifetime-store.ts";
import { type Lifetime, resumed } from "#lifetimes/lifetime.ts";
import type { Sandbox } from "#sandboxes/sandbox.ts";
import type { PreparedGuests } from "./guest-user.ts";

/** The dependencies of the E2B interface. */
export interface E2bContext extends ApiContext {
  readonly lifetimes: LifetimeStore;
  readonly prepared: PreparedGuests;
  /** The key from which the access tokens of sandboxes are derived, hexadecimal. */
  readonly tokenKey: string;
}

/** The token that opens the inside of a sandbox. It is derived and stored nowhere. */
export function accessTokenOf({ tokenKey }: Pick<E2bContext, "tokenKey">, id: SandboxId): string {
  return createHmac("sha256", Buffer.from(tokenKey, "hex")).update(id).digest("hex");
}

/** Compares two texts in constant time. */
export function equalInConstantTime(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

/** How a client reaches a sandbox. The domain carries the port through which the client reached this server. */
export function accessOf(context: E2bContext, id: SandboxId, { headers }: Pick<FastifyRequest, "headers">): Access {
  const [port = ""] = /:\d+$/.exec(headers.host ?? "") ?? [];
  return { accessToken: accessTokenOf(context, id), domain: `${context.place.sandboxDomain}${port}` };
}

const idWithSuffix = new RegExp(`^(${sandboxIdPattern.source})(?:-.*)?$`);

/** The id of a sandbox, which older clients send with a suffix. @throws `not_found` */
export function sandboxIdFrom(text: string): SandboxId {
  return parseSandboxId(withoutSuffix(text));
}

export function withoutSuffix(text: string): string {
  return idWithSuffix.exec(text)?.[1] ?? text;
}

/**
 * What this interface shows of a sandbox. Undefined when the sandbox has ended, for which E2B has no state. A sandbox
 * that a server hibernated at its shutdown shows as running, since any call wakes it.
 */
export function factsOf(sandbox: Sandbox, lifetime: Lifetime | undefined): SandboxFacts | undefined {
  if (!isShown(sandbox)) return undefined;
  const isAsleep = sandbox.state === "hibernating" || sandbox.state === "hibernated" || sandbox.state === "waking";
  return {
    ...sandbox,
    template: lifetime?.template ?? templateOf(sandbox),
    endsAt: lifetime === undefined ? sandbox.expiresAt : lifetime.endsAt,
    paused: isAsleep && (lifetime?.paused ?? true),
    wakesOnUse: lifetime?.wakesOnUse ?? true,
    atEnd: lifetime?.atEnd ?? (sandbox.ephemeral ? "delete" : "hibernate"),
  };
}

function isShown({ state, bootsOnUse }: Sandbox): boolean {
  return state !== "stopped" && state !== "stopping" && (state !== "error" || bootsOnUse);
}

function templateOf({ image, fromCheckpointId }: Sandbox): string {
  return fromCheckpointId ?? (image === "default" ? "base" : image);
}

/** A sandbox as this interface shows it, with its rows. */
export interface Shown {
  readonly sandbox: Sandbox;
  readonly lifetime: Lifetime | undefined;
  readonly facts: SandboxFacts;
}

/** The sandbox as this interface shows it. @throws `not_found` for one that has ended, or of another organization */
export async function shownSandbox(
  { sandboxes, lifetimes }: E2bContext,
  organizationId: string,
  id: SandboxId,
): Promise<Shown> {
  const sandbox = await sandboxes.stores.sandboxes.get(organizationId, id);
  const lifetime = await lifetimes.find(id);
  const facts = factsOf(sandbox, lifetime);
  if (facts !== undefined) return { sandbox, lifetime, facts };
  throw new SandboxError("not_found", `sandbox ${id} has ended`, { resource: "sandbox", id });
}

/** The sandbox that a call names, unless it has ended, or is paused and no call may wake it. */
export async function findReachable({ sandboxes, lifetimes }: E2bContext, named: string): Promise<Shown | undefined> {
  const id = sandboxIdOrNone(named);
  const sandbox = id === undefined ? undefined : await sandboxes.stores.sandboxes.find(id);
  if (sandbox === undefined || sandbox.hidden) return undefined;
  const lifetime = await lifetimes.find(sandbox.id);
  const facts = factsOf(sandbox, lifetime);
  if (facts === undefined || (facts.paused && !facts.wakesOnUse)) return undefined;
  return { sandbox, lifetime, facts };
}

function sandboxIdOrNone(text: string): SandboxId | undefined {
  try {
    return sandboxIdFrom(text);
  } catch (error) {
    if (isSandboxError(error, "not_found")) return undefined;
    throw error;
  }
}

/** Ends the pause of a sandbox that a call is about to wake. */
export async function endPause({ sandboxes, lifetimes }: E2bContext, { facts, lifetime }: Shown): Promise<void> {
  if (facts.paused && lifetime !== undefined) await lifetimes.put(resumed(lifetime, sandboxes.clock.now()));
}

/** Turns `not_found` into undefined. */
export async function orMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work;
  } catch (error) {
    if (isSandboxError(error, "not_found")) return undefined;
    throw error;
  }
}
