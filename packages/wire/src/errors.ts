/**
 * Every way an operation can fail, in one closed table. A code is given once, where the fact is
 * known; later hops add context and `cause`, never another code. Nobody reads a message to decide.
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

/** What an error can be about. */
export type Resource =
  | "sandbox"
  | "file"
  | "image"
  | "exec"
  | "exec session"
  | "checkpoint"
  | "snapshot"
  | "patch"
  | "preview URL"
  | "network"
  | "port"
  | "route"
  | "api key";

/** What a caller may rely on beside the code. A code without an entry carries nothing. */
export interface ErrorDetails {
  not_found: { resource: Resource; id: string };
  already_exists: { resource: Resource; id: string };
  wrong_state: { resource: Resource; state: string; allowed: readonly string[] };
  /** It is still known, and does nothing any more. */
  gone: { resource: Resource; state: string };
  no_capacity: { needMemoryMib: number; freeMemoryMib: number };
}

type DetailsOf<C extends ErrorCode> = C extends keyof ErrorDetails ? ErrorDetails[C] : undefined;

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

  constructor(code: C, message: string, details: DetailsOf<C>, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
    this.details = details;
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

/** The error as it is; anything that is not ours becomes `internal` with the original as its cause. */
export function asSandboxError(error: unknown): SandboxError {
  if (isSandboxError(error)) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new SandboxError("internal", message, undefined, { cause: error });
}

export function errorToWire(error: SandboxError): ErrorOnWire {
  const { code, message, details } = error;
  return details === undefined ? { code, message } : { code, message, details };
}

/** Rebuilds what {@link errorToWire} sent. A code from a newer peer becomes `internal`. */
export function errorFromWire(wire: { code: string; message: string; details?: unknown }): SandboxError {
  const code = Object.hasOwn(errorCodes, wire.code) ? (wire.code as ErrorCode) : "internal";
  return new SandboxError(code, wire.message, wire.details as DetailsOf<typeof code>);
}
