/** Why the model did not answer. The message is for people. */
export class ModelError extends Error {
  /** Whether a repeated request may succeed. */
  readonly retryable: boolean;
  /** The pause that the server asks for. */
  readonly retryAfterMs: number | undefined;

  constructor(
    message: string,
    options: {
      readonly retryable?: boolean;
      readonly retryAfterMs?: number | undefined;
      readonly cause?: unknown;
    } = {},
  ) {
    super(message, { cause: options.cause });
    this.name = "ModelError";
    this.retryable = options.retryable ?? false;
    this.retryAfterMs = options.retryAfterMs;
  }
}
