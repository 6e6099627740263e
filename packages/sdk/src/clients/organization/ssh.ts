import { addSshKey, getSshGateway, listSshKeys, removeSshKey, type SshKeyReply } from "@opensandbox/wire/public/ssh.ts";
import type { HttpClient } from "#transport/http.ts";

/** A public key that may connect to every sandbox of the organization. */
export interface SshKey {
  readonly id: string;
  readonly name: string;
  /** Such as `ssh-ed25519`. */
  readonly type: string;
  /** As `ssh-keygen -l` prints it. */
  readonly fingerprint: string;
  readonly createdAt: string;
  /** Absent: no connection has used it. */
  readonly lastUsedAt?: string;
}

/** Where the server accepts SSH connections. The user name is the id of a sandbox. */
export interface SshGateway {
  /** The host of the server's address. */
  readonly host: string;
  readonly port: number;
  /** The gateway's public key, as a known_hosts file holds it. */
  readonly hostKey: string;
  readonly fingerprint: string;
}

export interface SshClient {
  /** Undefined: the server has no SSH gateway. */
  gateway(signal?: AbortSignal): Promise<SshGateway | undefined>;
  /** Adds the line of a `.pub` file. Requires a key with the scope `admin:write`. */
  addKey(key: { readonly publicKey: string; readonly name?: string }, signal?: AbortSignal): Promise<SshKey>;
  /** The oldest first. */
  listKeys(signal?: AbortSignal): Promise<readonly SshKey[]>;
  /** Open connections of the key end within a minute. */
  removeKey(id: string, signal?: AbortSignal): Promise<void>;
}

export function sshClient(http: HttpClient): SshClient {
  return {
    async gateway(signal) {
      const { enabled, port, hostKey, fingerprint } = await http.call(getSshGateway, {}, signal);
      if (!enabled || port === undefined || hostKey === undefined || fingerprint === undefined) return undefined;
      const { hostname } = new URL(await http.socketUrl(getSshGateway, {}));
      return { host: hostname.replaceAll(/[[\]]/g, ""), port, hostKey, fingerprint };
    },
    addKey: async (key, signal) => keyFrom(await http.call(addSshKey, { body: key }, signal)),
    listKeys: async (signal) => (await http.call(listSshKeys, {}, signal)).map(keyFrom),
    async removeKey(id, signal) {
      await http.call(removeSshKey, { parameters: { sshKeyId: id } }, signal);
    },
  };
}

function keyFrom({ lastUsedAt, ...key }: SshKeyReply): SshKey {
  return { ...key, ...(lastUsedAt === undefined ? {} : { lastUsedAt }) };
}
