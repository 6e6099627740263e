import { agentsClient } from "./clients/agents.ts";
import type { AgentsClient } from "./clients/agents.ts";
import { checkpointsClient } from "./clients/checkpoints.ts";
import type { CheckpointsClient } from "./clients/checkpoints.ts";
import { execClient } from "./clients/exec.ts";
import type { ExecClient } from "./clients/exec.ts";
import { filesClient } from "./clients/files.ts";
import type { FilesClient } from "./clients/files.ts";
import { httpClient } from "./transport/http.ts";
import { imagesClient } from "./clients/images.ts";
import type { ImagesClient } from "./clients/images.ts";
import { networkClient } from "./clients/network.ts";
import type { NetworkClient } from "./clients/network.ts";
import { previewsClient } from "./clients/previews.ts";
import type { PreviewsClient } from "./clients/previews.ts";
import { sandboxesClient } from "./clients/sandboxes.ts";
import type { SandboxesClient } from "./clients/sandboxes.ts";
import { sessionsClient } from "./clients/sessions.ts";
import type { SessionsClient } from "./clients/sessions.ts";
import { openGlobalSocket } from "./transport/socket.ts";
import type { OpenSocket } from "./transport/socket.ts";

export interface ConnectOptions {
  /** Address of the server, with or without `/api` at its end. */
  readonly url: string;
  /** Left out for a server that asks for none. */
  readonly apiKey?: string;
  /** How a WebSocket is opened. Default: the global `WebSocket`, which cannot slow down a fast command. */
  readonly openSocket?: OpenSocket;
}

/**
 * All that a server does, by the ids of sandboxes. Every call rejects with a `SandboxError`; nothing is sent before the
 * first call. Calls that read, and creates, are made again after a failure that passes; all others are made once.
 */
export interface Client {
  readonly sandboxes: SandboxesClient;
  readonly checkpoints: CheckpointsClient;
  readonly images: ImagesClient;
  readonly files: FilesClient;
  readonly exec: ExecClient;
  readonly sessions: SessionsClient;
  readonly agents: AgentsClient;
  readonly previews: PreviewsClient;
  readonly network: NetworkClient;
}

/**
 * The server at a URL.
 *
 * @example
 * const client = connect({ url: "http://127.0.0.1:8080", apiKey: "osb_..." });
 * const { id } = await client.sandboxes.create({});
 * await client.exec.run(id, { cmd: "uname -a" });
 */
export function connect({ url, apiKey, openSocket = openGlobalSocket }: ConnectOptions): Client {
  const http = httpClient(url, apiKey);
  return {
    sandboxes: sandboxesClient(http),
    checkpoints: checkpointsClient(http),
    images: imagesClient(http),
    files: filesClient(http),
    exec: execClient(http, openSocket),
    sessions: sessionsClient(http, openSocket),
    agents: agentsClient(http, openSocket),
    previews: previewsClient(http),
    network: networkClient(http),
  };
}
