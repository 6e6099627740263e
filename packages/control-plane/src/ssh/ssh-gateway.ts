import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { describeError, SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import ssh2, { type AuthContext, type Connection, type ServerConfig } from "ssh2";
import type { SandboxContext } from "#lifecycle/sandbox-context.ts";
import type { AuditLog } from "../audit/audit-log.ts";
import { regularly } from "../service/regularly.ts";
import { authenticate, type Identity } from "./authenticate.ts";
import { guardSocket } from "./guard-socket.ts";
import { type HostKey, hostKeyOf } from "./host-key.ts";
import { serveConnection } from "./serve-connection.ts";
import type { SshKeyStore } from "./ssh-key-store.ts";

/** Accepts SSH connections to sandboxes. Disposing ends them. */
export interface SshGateway extends AsyncDisposable {
  readonly port: number;
  readonly hostKey: HostKey;
}

export interface SshGatewayOptions {
  readonly sandboxes: SandboxContext;
  readonly keys: SshKeyStore;
  readonly audit: Pick<AuditLog, "add">;
  /** Counts a call of an organization. Returns 0, or the seconds until it may make another one. */
  readonly takeCall: (organizationId: string) => number;
  /** Port 0: any free port. */
  readonly listen: { readonly host: string; readonly port: number };
  /** 32 bytes, hexadecimal, from which the host key is made. */
  readonly hostKeySeed: string;
  /** How often open connections are compared with the keys, in milliseconds. */
  readonly revokedMs: number;
  readonly limits?: Partial<ConnectionLimits>;
}

/** Bounds of what clients may cause. */
export interface ConnectionLimits {
  readonly connections: number;
  /** Connections that have not authenticated, of all addresses and of one. */
  readonly strangers: number;
  readonly strangersOfAddress: number;
  /** How long a client may take to authenticate. */
  readonly loginMs: number;
  /** Keys that a client may offer: agents hold several. */
  readonly attempts: number;
}

const defaultLimits: ConnectionLimits = {
  connections: 2000,
  strangers: 200,
  strangersOfAddress: 50,
  loginMs: 60_000,
  attempts: 20,
};

/** How long the client may take to read the reason of its disconnection. */
const farewellMs = 3000;

/** Algorithms without SHA-1, CBC and compression. The library adds strict key exchange. */
const algorithms: NonNullable<ServerConfig["algorithms"]> = {
  kex: ["curve25519-sha256", "curve25519-sha256@libssh.org", "ecdh-sha2-nistp256", "diffie-hellman-group16-sha512"],
  serverHostKey: ["ssh-ed25519"],
  cipher: ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com", "aes256-ctr"],
  hmac: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256"],
  compress: ["none"],
};

/** Starts the gateway. @throws `unavailable` when it cannot listen */
export async function startSshGateway(options: SshGatewayOptions): Promise<SshGateway> {
  const { sandboxes, keys, listen, revokedMs } = options;
  const hostKey = hostKeyOf(options.hostKeySeed);
  const gateway = new Gateway(options, hostKey);
  const server = createServer({ noDelay: true, keepAlive: true }, (socket) => gateway.admit(socket));
  await listenOn(server, listen);
  const revoked = { what: "closing the SSH connections of removed keys", everyMs: revokedMs, log: sandboxes.log };
  const closing = regularly(revoked, async () => gateway.closeExcept(await keys.accepted(gateway.keyIds)));
  return {
    port: (server.address() as { readonly port: number }).port,
    hostKey,
    [Symbol.asyncDispose]: async () => {
      const closed = once(server, "close");
      server.close();
      gateway.close();
      await closing[Symbol.asyncDispose]();
      await closed;
      await gateway.idle();
    },
  };
}

async function listenOn(server: Server, { host, port }: SshGatewayOptions["listen"]): Promise<void> {
  server.listen(port, host);
  try {
    await once(server, "listening");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const reason = code === "EADDRINUSE" ? "it is in use: stop the other program or set OPENSANDBOX_SSH_PORT" : message;
    throw new SandboxError("unavailable", `the SSH gateway cannot listen on ${host} port ${port}: ${reason}`, {
      cause,
    });
  }
}

class Gateway {
  readonly #options: SshGatewayOptions;
  readonly #config: ServerConfig;
  readonly #limits: ConnectionLimits;
  readonly #sockets = new Set<Socket>();
  readonly #strangers = new Map<Socket, string>();
  /** The connections that have authenticated, with the id of their key. */
  readonly #known = new Map<Socket, string>();
  readonly #working = new Set<Promise<void>>();

  constructor(options: SshGatewayOptions, hostKey: HostKey) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#config = {
      hostKeys: [hostKey.privateKey],
      ident: "OpenSandbox",
      algorithms,
      keepaliveInterval: 30_000,
      keepaliveCountMax: 4,
    };
  }

  get keyIds(): readonly string[] {
    return [...new Set(this.#known.values())];
  }

  closeExcept(accepted: ReadonlySet<string>): void {
    for (const [socket, keyId] of this.#known) if (!accepted.has(keyId)) socket.destroy();
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Resolves when the calls of ended connections have ended. */
  async idle(): Promise<void> {
    await Promise.all(this.#working);
  }

  admit(socket: Socket): void {
    const address = socket.remoteAddress ?? "";
    const { connections, strangers, strangersOfAddress, loginMs } = this.#limits;
    const ofAddress = [...this.#strangers.values()].filter((each) => each === address).length;
    if (this.#sockets.size >= connections || this.#strangers.size >= strangers || ofAddress >= strangersOfAddress) {
      // Without a listener the error of a connection that breaks now would end the process.
      socket.on("error", () => undefined);
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    this.#strangers.set(socket, address);
    const login = setTimeout(() => socket.destroy(), loginMs);
    socket.once("close", () => {
      clearTimeout(login);
      this.#sockets.delete(socket);
      this.#strangers.delete(socket);
      this.#known.delete(socket);
    });
    // A server of its own, since the library does not name the socket of a connection.
    const server = new ssh2.Server(this.#config, (client) => this.#serve(client, socket, login));
    server.on("error", () => socket.destroy());
    server.injectSocket(socket);
  }

  #serve(client: Connection, socket: Socket, login: NodeJS.Timeout): void {
    const { sandboxes, takeCall } = this.#options;
    const address = this.#strangers.get(socket) ?? "";
    let attempts = 0;
    let identity: Identity | undefined;
    client.on("error", () => endSoon(socket));
    // A new exchange of keys costs the server more than the client.
    client.on("rekey", () => {
      if (identity === undefined) socket.destroy();
    });
    client.on("authentication", (context: AuthContext) => {
      attempts += 1;
      if (attempts > this.#limits.attempts) {
        client.end();
        endSoon(socket);
        return;
      }
      authenticate(context, this.#options)
        .then((found) => {
          if (socket.destroyed) return;
          if (found === undefined) return context.reject(["publickey"]);
          if (!found.isProved) return context.accept();
          if (takeCall(found.identity.organizationId) > 0) {
            client.end();
            return endSoon(socket);
          }
          identity = found.identity;
          context.accept();
        })
        .catch((error: unknown) => {
          sandboxes.log("error", "an SSH connection cannot be authenticated", describeError(error));
          socket.destroy();
        });
    });
    client.on("ready", () => {
      if (identity === undefined) return void socket.destroy();
      clearTimeout(login);
      this.#strangers.delete(socket);
      this.#known.set(socket, identity.keyId);
      this.#record(identity, address);
      const guard = guardSocket(socket);
      const working = serveConnection(client, { sandboxes, identity, socket, guard });
      this.#working.add(working);
      void working.finally(() => this.#working.delete(working));
    });
  }

  #record({ organizationId, keyId, name, fingerprint, sandboxId }: Identity, address: string): void {
    const { audit, keys, sandboxes } = this.#options;
    audit.add({
      ...{ organizationId, actor: `${name} (${fingerprint})`, keyId, action: "openSsh", method: "SSH", status: 101 },
      ...{ path: `/${sandboxId}`, address, requestId: `ssh-${randomHex(8)}` },
    });
    keys.setUsed(keyId, new Date(sandboxes.clock.now())).catch((error: unknown) => {
      sandboxes.log("warn", "cannot store the last use of an SSH key", { key: keyId, ...describeError(error) });
    });
  }
}

/** Ends a connection whose client may still have to read the reason. */
function endSoon(socket: Socket): void {
  socket.end();
  const timer = setTimeout(() => socket.destroy(), farewellMs);
  socket.once("close", () => clearTimeout(timer));
}
