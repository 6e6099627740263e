/**
 * Every way in which an operation can fail, in one closed table. The code is chosen where the fact is known; later hops
 * add context and `cause`, never another code. Programs decide by code and details, never by message.
 */
export const errorCodes = {
  invalid_argument: { status: 400, retryable: false },
  unauthenticated: { status: 401, retryable: false },
  permission_denied: { status: 403, retryable: false },
  not_found: { status: 404, retryable: false },
  already_exists: { status: 409, retryable: false },
  wrong_state: { status: 409, retryable: false },
  incompatible: { status: 409, retryable: false },
  gone: { status: 410, retryable: false },
  quota_exceeded: { status: 429, retryable: false },
  canceled: { status: 499, retryable: false },
  internal: { status: 500, retryable: false },
  not_supported: { status: 501, retryable: false },
  no_capacity: { status: 503, retryable: true },
  unavailable: { status: 503, retryable: true },
  timed_out: { status: 504, retryable: true },
} as const satisfies Record<string, { status: number; retryable: boolean }>;

export type ErrorCode = keyof typeof errorCodes;

/** The kinds of things that an error can be about. */
export type Resource =
  | "sandbox"
  | "file"
  | "image"
  | "exec"
  | "exec session"
  | "checkpoint"
  | "snapshot"
  | "template"
  | "template build"
  | "patch"
  | "preview URL"
  | "network"
  | "port"
  | "route"
  | "worker"
  | "organization"
  | "api key"
  | "SSH key"
  | "webhook"
  | "delivery"
  | "secret store"
  | "secret";

/** The resource that ran out on a host. Sizes in MiB. */
export type Shortage =
  | { resource: "memory"; needMib: number; freeMib: number }
  | { resource: "disk" }
  | { resource: "network slots"; total: number };

/**
 * Why a snapshot cannot be used.
 * - `damaged`: its files differ from the capture, so nothing may be started from it.
 * - `format`: its format is unknown to this version.
 * - `machine`: its memory belongs to another kind of machine; its disks can still be booted.
 */
export type Incompatibility = "damaged" | "format" | "machine";

/** The facts that belong to a code. A code without an entry has none. */
export interface ErrorDetails {
  not_found: { resource: Resource; id: string };
  already_exists: { resource: Resource; id: string };
  wrong_state: { resource: Resource; state: string; allowed: readonly string[] };
  incompatible: { reason: Incompatibility };
  /** The resource is known but can no longer be used. */
  gone: { resource: Resource; state: string };
  no_capacity: Shortage;
}

type DetailsOf<C extends ErrorCode> = C extends keyof ErrorDetails ? ErrorDetails[C] : undefined;

/** Details come third, exactly for the codes that have them; the options of `Error` come last. */
type ErrorArguments<C extends ErrorCode> = C extends keyof ErrorDetails
  ? [details: ErrorDetails[C], options?: ErrorOptions]
  : [options?: ErrorOptions];

/** An error as it crosses a wire. */
export interface ErrorOnWire {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: unknown;
}

const brand = Symbol.for("opensandbox.error");

/** The one error class. Recognise it with {@link isSandboxError}, never with `instanceof`. */
export class SandboxError<C extends ErrorCode = ErrorCode> extends Error {
  override readonly name = "SandboxError";
  readonly [brand] = true;
  readonly code: C;
  readonly details: DetailsOf<C>;

  constructor(code: C, message: string, ...rest: ErrorArguments<C>) {
    const [details, options] = hasDetails(code) ? rest : [undefined, rest[0]];
    super(message, options as ErrorOptions | undefined);
    this.code = code;
    this.details = details as DetailsOf<C>;
  }

  /** Whether the same call may succeed later, unchanged. */
  get retryable(): boolean {
    return errorCodes[this.code].retryable;
  }
}

/** Works across bundles and realms, unlike `instanceof`. */
export function isSandboxError<C extends ErrorCode>(error: unknown, code?: C): error is SandboxError<C> {
  return error instanceof Error && brand in error && (code === undefined || (error as SandboxError).code === code);
}

/** The error itself, or `internal` with any other value as its cause. */
export function asSandboxError(error: unknown): SandboxError {
  if (isSandboxError(error)) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new SandboxError("internal", message, { cause: error });
}

export function errorToWire(error: SandboxError): ErrorOnWire {
  const { code, message, details } = error;
  return details === undefined ? { code, message } : { code, message, details };
}

/**
 * Rebuilds an error that {@link errorToWire} sent. An unknown code, or details that do not fit the code, make it
 * `internal`: the peer may be newer, or hostile.
 */
export function errorFromWire(wire: { code: string; message: string; details?: unknown }): SandboxError {
  if (!isErrorCode(wire.code)) return new SandboxError("internal", wire.message);
  return rebuild(wire.code, wire.message, wire.details) ?? new SandboxError("internal", wire.message);
}

/** The same error with another message. */
export function withMessage(error: SandboxError, message: string): SandboxError {
  const options = { cause: error };
  return rebuild(error.code, message, error.details, options) ?? new SandboxError("internal", message, options);
}

function isErrorCode(code: string): code is ErrorCode {
  return Object.hasOwn(errorCodes, code);
}

function hasDetails(code: ErrorCode): code is keyof ErrorDetails {
  return Object.hasOwn(detailChecks, code);
}

/** The parsed details; undefined when they do not fit the code. */
function rebuild(code: ErrorCode, message: string, details: unknown, options?: ErrorOptions): SandboxError | undefined {
  if (!hasDetails(code)) return new SandboxError(code, message, options);
  if (typeof details !== "object" || details === null) return undefined;
  if (!detailChecks[code](details as Record<string, unknown>)) return undefined;
  const rest = [details, options] as ErrorArguments<typeof code>;
  return new SandboxError(code, message, ...rest);
}

type Check = (details: Record<string, unknown>) => boolean;

const isString = (value: unknown): boolean => typeof value === "string";
const isNumber = (value: unknown): boolean => typeof value === "number" && Number.isFinite(value);

// Without a schema library: the guest agent reads errors too, and loads as little as possible.
const detailChecks: Readonly<Record<keyof ErrorDetails, Check>> = {
  not_found: ({ resource, id }) => isString(resource) && isString(id),
  already_exists: ({ resource, id }) => isString(resource) && isString(id),
  wrong_state: ({ resource, state, allowed }) =>
    isString(resource) && isString(state) && Array.isArray(allowed) && allowed.every(isString),
  incompatible: ({ reason }) => reason === "damaged" || reason === "format" || reason === "machine",
  gone: ({ resource, state }) => isString(resource) && isString(state),
  no_capacity: ({ resource, needMib, freeMib, total }) =>
    resource === "disk" ||
    (resource === "memory" && isNumber(needMib) && isNumber(freeMib)) ||
    (resource === "network slots" && isNumber(total)),
};

/** The fields of a log line for an error and its causes. */
export function describeError(error: unknown): object {
  if (!(error instanceof Error)) return { error: String(error) };
  return {
    error: error.message,
    ...("code" in error ? { code: error.code } : {}),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: describeError(error.cause) }),
    ...(error instanceof SuppressedError ? { first: describeError(error.suppressed) } : {}),
  };
}
