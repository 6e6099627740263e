import { SandboxError } from "@opensandbox/wire/errors.ts";

/** PostgreSQL has rolled the transaction back, so repeating it is safe. */
const repeatable: ReadonlyMap<string, string> = new Map([
  ["40001", "its transactions kept colliding"],
  ["40P01", "its transactions kept blocking each other"],
]);

/** The session has ended, or PostgreSQL takes no session now. https://www.postgresql.org/docs/current/errcodes-appendix.html */
const lost: ReadonlyMap<string, string> = new Map([
  ["53300", "it has no free connection: lower OPENSANDBOX_DATABASE_CONNECTIONS or raise its max_connections"],
  ["57P01", "it is shutting down"],
  ["57P02", "it crashed and restarts"],
  ["57P03", "it is starting"],
  ["25P03", "a transaction was idle for too long"],
  ["ECONNREFUSED", "nothing listens at its address"],
  ["ENOENT", "its socket does not exist"],
  ["ECONNRESET", "the connection was cut"],
  ["EPIPE", "the connection was cut"],
  ["ETIMEDOUT", "the connection timed out"],
  ["EHOSTUNREACH", "its host cannot be reached"],
  ["ENETUNREACH", "its host cannot be reached"],
  ["EAI_AGAIN", "its host name cannot be looked up"],
]);

/** An operator, or time, has to remove the cause. */
const refused: ReadonlyMap<string, string> = new Map([
  ["ENOTFOUND", "its host name does not exist: check OPENSANDBOX_DATABASE_URL"],
  ["28P01", "it refuses the password: check OPENSANDBOX_DATABASE_URL"],
  ["28000", "it refuses the user: check OPENSANDBOX_DATABASE_URL and its pg_hba.conf"],
  ["3D000", "the database does not exist: create it with createdb"],
  ["42501", "the user lacks a privilege: it must own the database"],
  ["57014", "a statement took too long"],
  ["55P03", "a lock was held for too long"],
  ["25006", "it is read-only: OPENSANDBOX_DATABASE_URL must name the primary"],
  ["53100", "its disk is full"],
  ["53200", "it is out of memory"],
]);

/** Messages of `pg` without a code. */
const withoutCode = [
  [/^Connection terminated/, "the connection was cut"],
  [/^Client has encountered a connection error/, "the connection was cut"],
  [/^timeout exceeded when trying to connect/, "no connection became free in time"],
  [/^timeout expired/, "it does not answer"],
  [/^Query read timeout/, "it does not answer"],
] as const;

/** Whether the session has ended or never began. */
export function isLostConnection(error: unknown): boolean {
  const code = codeOf(error);
  return lost.has(code) || code.startsWith("08") || messageReason(error) !== undefined;
}

/**
 * Turns a refusal of PostgreSQL or of the network into an error of the closed table. An error in a statement itself is
 * returned unchanged.
 */
export function translatePostgresError(error: unknown): unknown {
  const code = codeOf(error);
  if (code === "22021") {
    return new SandboxError("invalid_argument", "text must not contain the character U+0000", { cause: error });
  }
  const reason =
    repeatable.get(code) ??
    lost.get(code) ??
    refused.get(code) ??
    (code.startsWith("08") ? "the connection was cut" : messageReason(error));
  if (reason === undefined) return error;
  return new SandboxError("unavailable", `the database cannot be used: ${reason}`, { cause: error });
}

/**
 * Whether PostgreSQL rolled a transaction back because of another one, so that it can be repeated. A unique violation is
 * such a case: the other transaction inserted its row after this one had looked, and the repetition finds the row.
 */
export function isCollision(error: unknown): boolean {
  const code = codeOf(error instanceof Error && error.cause !== undefined ? error.cause : error);
  return repeatable.has(code) || code === "23505";
}

/** The SQLSTATE, or the name of a system error; empty without either. */
function codeOf(error: unknown): string {
  // A host with several addresses: the first failure stands for all.
  if (error instanceof AggregateError) return codeOf(error.errors[0]);
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "";
}

function messageReason(error: unknown): string | undefined {
  if (!(error instanceof Error) || codeOf(error) !== "") return undefined;
  return withoutCode.find(([pattern]) => pattern.test(error.message))?.[1];
}
