/** Records spans: what this process does for a request of a client, and for how long. */
export interface Tracer {
  /** Starts a span below the one that `traceparent` names, or else below the span in which the caller runs. */
  start(span: SpanStart): OpenSpan;
  /** Whether the caller runs in a span. */
  readonly isInSpan: boolean;
}

export interface SpanStart {
  readonly name: string;
  /** `server`: this process answers a call. `client`: it makes one. */
  readonly kind: "server" | "client";
  readonly attributes: SpanAttributes;
  /** The span of a caller in another process, in the form of W3C Trace Context. An invalid value is ignored. */
  readonly traceparent?: string | undefined;
}

export type SpanAttributes = Readonly<Record<string, string | number>>;

export interface OpenSpan {
  /** The header that names this span to a process that is called, in the form of W3C Trace Context. */
  readonly traceparent: string;
  /** Runs the work, and everything that it starts, in the span. */
  run<Result>(work: () => Result): Result;
  /** Ends the span. `error` says why the work failed; absent: it succeeded. */
  end(outcome?: { readonly attributes?: SpanAttributes; readonly error?: string }): void;
}
