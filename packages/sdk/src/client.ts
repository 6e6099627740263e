import { agentsClient } from "./agents.ts";
import type { AgentsClient } from "./agents.ts";
import { checkpointsClient } from "./checkpoints.ts";
import type { CheckpointsClient } from "./checkpoints.ts";
import { execClient } from "./exec.ts";
import type { ExecClient } from "./exec.ts";
import { filesClient } from "./files.ts";
import type { FilesClient } from "./files.ts";
import { httpClient } from "./http.ts";
import { imagesClient } from "./images.ts";
import type { ImagesClient } from "./images.ts";
import { networkClient } from "./network.ts";
import type { NetworkClient } from "./network.ts";
import { previewsClient } from "./previews.ts";
import type { PreviewsClient } from "./previews.ts";
import { sandboxesClient } from "./sandboxes.ts";
import type { SandboxesClient } from "./sandboxes.ts";
import { sessionsClient } from "./sessions.ts";
import type { SessionsClient } from "./sessions.ts";
import { openGlobalSocket } from "./socket.ts";
import type { OpenSocket } from "./socket.ts";

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
