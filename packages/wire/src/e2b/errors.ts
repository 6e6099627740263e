import { errorCodes, type ErrorCode, type SandboxError } from "../errors.ts";

/** The body of every failure of the REST interface. Clients decide by `code`, not by the status. */
export interface E2bError {
  readonly code: number;
  readonly message: string;
}

/** The answer to a failed REST call. */
export function e2bErrorOf({ code, message }: Pick<SandboxError, "code" | "message">): {
  readonly status: number;
  readonly body: E2bError;
} {
  const status = statusOf(code);
  return { status, body: { code: status, message } };
}

/** Clients know no 403 for a key, no 410 and no 499, and take 503 for a server that is busy. */
function statusOf(code: ErrorCode): number {
  if (code === "gone") return 404;
  return code === "canceled" ? 500 : errorCodes[code].status;
}

/** The codes of the Connect protocol that this server uses, with the status of a unary failure. */
export const connectStatus = {
  canceled: 499,
  unknown: 500,
  invalid_argument: 400,
  deadline_exceeded: 504,
  not_found: 404,
  already_exists: 409,
  permission_denied: 403,
  resource_exhausted: 429,
  failed_precondition: 400,
  unimplemented: 501,
  internal: 500,
  unavailable: 503,
  unauthenticated: 401,
} as const;

export type ConnectCode = keyof typeof connectStatus;

export interface ConnectFailure {
  readonly code: ConnectCode;
  readonly message: string;
}

/** A failure as the Connect protocol words it. */
export function connectFailureOf({ code, message }: Pick<SandboxError, "code" | "message">): ConnectFailure {
  return { code: connectCodes[code], message };
}

const connectCodes = {
  invalid_argument: "invalid_argument",
  unauthenticated: "unauthenticated",
  permission_denied: "permission_denied",
  not_found: "not_found",
  already_exists: "already_exists",
  wrong_state: "failed_precondition",
  incompatible: "failed_precondition",
  gone: "not_found",
  quota_exceeded: "resource_exhausted",
  canceled: "canceled",
  internal: "internal",
  not_supported: "unimplemented",
  no_capacity: "resource_exhausted",
  unavailable: "unavailable",
  timed_out: "deadline_exceeded",
} as const satisfies Record<ErrorCode, ConnectCode>;
