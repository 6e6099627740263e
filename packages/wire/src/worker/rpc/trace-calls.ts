import { ConnectError, type Interceptor, type StreamRequest, type UnaryRequest } from "@connectrpc/connect";
import type { OpenSpan, SpanAttributes, Tracer } from "../../tracing.ts";

/** A wait for the end of a machine begins in a request and outlasts it by hours. */
const untraced: ReadonlySet<string> = new Set(["WaitForEnd"]);

/** On a server: each call that serves a request gets a span of its own, which a header names to the worker. */
export function traceCalls(tracer: Tracer, workerName: () => string): Interceptor {
  return (next) => async (request) => {
    if (!tracer.isInSpan || untraced.has(request.method.name)) return await next(request);
    const attributes = { ...attributesOf(request), "opensandbox.worker": workerName() };
    const span = tracer.start({ kind: "client", name: `call ${request.method.name}`, attributes });
    request.header.set("traceparent", span.traceparent);
    return await within(span, () => next(request));
  };
}

/** On a worker: each call that names the span of its server is answered in a span below it. */
export function traceAnswers(tracer: Tracer): Interceptor {
  return (next) => async (request) => {
    const traceparent = request.header.get("traceparent");
    if (traceparent === null) return await next(request);
    const name = `answer ${request.method.name}`;
    const span = tracer.start({ kind: "server", name, attributes: attributesOf(request), traceparent });
    return await within(span, () => next(request));
  };
}

type Answer = Awaited<ReturnType<ReturnType<Interceptor>>>;

/** Ends the span with the answer, which is over with its last message. */
async function within(span: OpenSpan, call: () => Promise<Answer>): Promise<Answer> {
  try {
    const answer = await span.run(call);
    if (answer.stream) return { ...answer, message: endingWith(span, answer.message) };
    span.end();
    return answer;
  } catch (error) {
    span.end({ error: ConnectError.from(error).message });
    throw error;
  }
}

async function* endingWith<Message>(span: OpenSpan, messages: AsyncIterable<Message>): AsyncGenerator<Message> {
  let error: string | undefined;
  try {
    yield* messages;
  } catch (thrown) {
    error = ConnectError.from(thrown).message;
    throw thrown;
  } finally {
    span.end(error === undefined ? {} : { error });
  }
}

function attributesOf(request: UnaryRequest | StreamRequest): SpanAttributes {
  const { service, method } = request;
  const called = { "rpc.system.name": "connectrpc", "rpc.method": `${service.typeName}/${method.name}` };
  const sandbox = !request.stream && "sandboxId" in request.message ? request.message.sandboxId : undefined;
  return typeof sandbox === "string" ? { ...called, "opensandbox.sandbox": sandbox } : called;
}
