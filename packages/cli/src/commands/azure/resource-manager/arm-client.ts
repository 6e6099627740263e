import { setTimeout as sleep } from "node:timers/promises";
import { asSandboxError, SandboxError } from "@opensandbox/wire/errors.ts";

/** A call of Azure Resource Manager, as data: a dry run prints it instead of sending it. */
export interface ArmCall {
  readonly method: "GET" | "PUT" | "PATCH" | "POST" | "DELETE";
  /** Begins with /subscriptions/ and has no query of the API version. */
  readonly path: string;
  readonly apiVersion: string;
  readonly body?: object;
}

export type ArmResult =
  | { readonly ok: true; readonly value: unknown }
  /** `code` is Azure's, such as SkuNotAvailable. */
  | { readonly ok: false; readonly status: number; readonly code: string; readonly message: string };

export interface ArmClientOptions {
  /** https://management.azure.com, or that of another cloud. */
  readonly endpoint: string;
  /** A valid access token. Called before each request, as an operation can outlive one token. */
  readonly token: (signal: AbortSignal) => Promise<string>;
}

/** What the steps of a creation need of the client. A dry run records the calls instead. */
export type Arm = Pick<ArmClient, "send" | "require" | "list">;

/** Bounds one call with all its polls. Creating a machine takes some minutes. */
const callTimeoutMs = 30 * 60_000;
/** The wait between two polls when Azure states none. */
const pollMs = 5_000;
/** Attempts of one request that Azure throttles or cannot serve at the moment. */
const maxAttempts = 8;

/**
 * Sends calls to Azure Resource Manager. Follows long-running operations to their end, and repeats requests that were
 * throttled or met a failure of the service, each after the time that Azure states.
 */
export class ArmClient {
  readonly #options: ArmClientOptions;

  constructor(options: ArmClientOptions) {
    this.#options = options;
  }

  /** @throws `unavailable` when Azure cannot be reached, `timed_out` when an operation does not end */
  async send(call: ArmCall, signal: AbortSignal): Promise<ArmResult> {
    const deadline = AbortSignal.timeout(callTimeoutMs);
    try {
      return await this.#sendToEnd(call, AbortSignal.any([signal, deadline]));
    } catch (error) {
      if (!deadline.aborted || signal.aborted) throw error;
      const message = `${nameOf(call)} did not end within ${callTimeoutMs / 60_000} minutes. Run the command again to continue`;
      throw new SandboxError("timed_out", message, { cause: error });
    }
  }

  /** The value of a successful call. @throws `unavailable` with Azure's code and message */
  async require(call: ArmCall, signal: AbortSignal): Promise<unknown> {
    const result = await this.send(call, signal);
    if (result.ok) return result.value;
    throw refused(call, result);
  }

  /** The items of a list, over all its pages. */
  async list(call: ArmCall, signal: AbortSignal): Promise<unknown[]> {
    const items: unknown[] = [];
    let page = (await this.require(call, signal)) as Page;
    for (;;) {
      items.push(...(page.value ?? []));
      if (page.nextLink === undefined) return items;
      const reply = await this.#request("GET", page.nextLink, undefined, signal);
      const result = resultOf(reply);
      if (!result.ok) throw refused(call, result);
      page = result.value as Page;
    }
  }

  async #sendToEnd(call: ArmCall, signal: AbortSignal): Promise<ArmResult> {
    const { method, body } = call;
    const url = this.#urlOf(call);
    const first = await this.#request(method, url, body, signal);
    if (method === "GET" || first.status >= 400) return resultOf(first);
    const operation = first.headers.get("azure-asyncoperation");
    if (operation !== null) {
      const failure = await this.#pollOperation(operation, first, signal);
      if (failure !== undefined) return failure;
      return isWrite(method) ? resultOf(await this.#request("GET", url, undefined, signal)) : done;
    }
    const location = first.headers.get("location");
    if (first.status === 202 && location !== null) return await this.#pollLocation(location, first, signal);
    return isWrite(method) ? await this.#pollResource(url, first, signal) : done;
  }

  /** Returns undefined when the operation has succeeded. */
  async #pollOperation(url: string, first: Reply, signal: AbortSignal): Promise<ArmResult | undefined> {
    for (let last = first; ;) {
      await sleep(retryAfterOf(last) ?? pollMs, undefined, { signal });
      last = await this.#request("GET", url, undefined, signal);
      if (last.status >= 400) return resultOf(last);
      const { status, error } = (last.body ?? {}) as { status?: string; error?: ArmErrorBody };
      if (status === "Succeeded") return undefined;
      if (status === "Failed" || status === "Canceled") return failureOf(last.status, error, status);
    }
  }

  /** The operation ends when its location answers with another status than 202. */
  async #pollLocation(url: string, first: Reply, signal: AbortSignal): Promise<ArmResult> {
    for (let last = first; ;) {
      await sleep(retryAfterOf(last) ?? pollMs, undefined, { signal });
      last = await this.#request("GET", url, undefined, signal);
      if (last.status !== 202) return resultOf(last);
    }
  }

  /** Without the address of an operation, polls the resource, which states its progress. */
  async #pollResource(url: string, first: Reply, signal: AbortSignal): Promise<ArmResult> {
    for (let last = first; ;) {
      const state = provisioningStateOf(last.body);
      if (last.status >= 400 || state === undefined || state === "Succeeded") return resultOf(last);
      if (state === "Failed" || state === "Canceled") return failureOf(last.status, undefined, state);
      await sleep(retryAfterOf(last) ?? pollMs, undefined, { signal });
      last = await this.#request("GET", url, undefined, signal);
    }
  }

  async #request(method: string, url: string, body: object | undefined, signal: AbortSignal): Promise<Reply> {
    for (let attempt = 1; ; attempt += 1) {
      const reply = await this.#requestOnce(method, url, body, signal);
      if (attempt === maxAttempts || (reply.status !== 429 && reply.status < 500)) return reply;
      await sleep(retryAfterOf(reply) ?? 1000 * 2 ** attempt, undefined, { signal });
    }
  }

  async #requestOnce(method: string, url: string, body: object | undefined, signal: AbortSignal): Promise<Reply> {
    const headers = {
      authorization: `Bearer ${await this.#options.token(signal)}`,
      ...(body === undefined ? {} : { "content-type": "application/json" }),
    };
    try {
      const payload = body === undefined ? {} : { body: JSON.stringify(body) };
      const response = await fetch(url, { method, headers, signal, ...payload });
      const text = await response.text();
      return { status: response.status, headers: response.headers, body: text === "" ? undefined : parsed(text) };
    } catch (cause) {
      if (signal.aborted) throw asSandboxError(signal.reason);
      throw new SandboxError("unavailable", `cannot reach Azure at ${new URL(url).host}: ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  #urlOf({ path, apiVersion }: ArmCall): string {
    return `${this.#options.endpoint}${path}${path.includes("?") ? "&" : "?"}api-version=${apiVersion}`;
  }
}

/** Calls whose result is the resource of their path. */
function isWrite(method: ArmCall["method"]): boolean {
  return method === "PUT" || method === "PATCH";
}

const done: ArmResult = { ok: true, value: undefined };

interface Page {
  readonly value?: readonly unknown[];
  readonly nextLink?: string;
}

interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: unknown;
}

interface ArmErrorBody {
  readonly code?: string;
  readonly message?: string;
  readonly details?: readonly ArmErrorBody[];
}

/** `undefined` for a body that is not JSON, such as a proxy's page. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function resultOf({ status, body }: Reply): ArmResult {
  if (status < 400) return { ok: true, value: body };
  return failureOf(status, (body as { error?: ArmErrorBody } | undefined)?.error, `HTTP ${status}`);
}

function failureOf(status: number, error: ArmErrorBody | undefined, otherwise: string): ArmResult & { ok: false } {
  const message = [error, ...(error?.details ?? [])].flatMap((part) => part?.message ?? []).join(" ");
  return { ok: false, status, code: error?.code ?? otherwise, message: message === "" ? "no explanation" : message };
}

function refused(call: ArmCall, { code, message }: ArmResult & { ok: false }): SandboxError {
  return new SandboxError("unavailable", `Azure refused ${nameOf(call)}: ${code}: ${message}`);
}

function nameOf({ method, path }: ArmCall): string {
  return `${method} ${path.split("?")[0]}`;
}

function provisioningStateOf(body: unknown): string | undefined {
  return (body as { properties?: { provisioningState?: string } } | undefined)?.properties?.provisioningState;
}

/** In milliseconds; the header has seconds or a date. */
function retryAfterOf({ headers }: Reply): number | undefined {
  const value = headers.get("retry-after");
  if (value === null) return undefined;
  const milliseconds = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(milliseconds) ? undefined : Math.max(0, milliseconds);
}
