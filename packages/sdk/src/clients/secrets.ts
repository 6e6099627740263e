import {
  createSecretStore,
  deleteSecret,
  deleteSecretStore,
  getSecretStore,
  listSecrets,
  listSecretStores,
  type SecretReply,
  type SecretStoreReply,
  setSecret,
  updateSecretStore,
} from "@opensandbox/wire/public/secret-stores.ts";
import type { HttpClient } from "#transport/http.ts";

/** A named set of secrets. A sandbox that is created with it sees sealed texts in their place. */
export interface SecretStore {
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  /** Hosts that its secrets may be sent to, such as `*.example.com`. Empty: each secret names its own. */
  readonly hosts: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** A secret without its value, which the server never returns. */
export interface Secret {
  readonly id: string;
  readonly storeId: string;
  /** The name of the variable in a sandbox. */
  readonly name: string;
  /** Hosts that it may be sent to, within those of its store. Empty: those of the store. */
  readonly hosts: readonly string[];
  readonly createdAt: string;
  readonly updatedAt: string;
}

export interface SecretSet {
  /** Running sandboxes that use the new value. */
  readonly refreshed: number;
  /** Running sandboxes that do not, and why. */
  readonly errors: readonly string[];
}

export interface SecretsClient {
  createStore(
    store: { readonly name: string; readonly hosts?: readonly string[] },
    signal?: AbortSignal,
  ): Promise<SecretStore>;
  /** The oldest first. */
  listStores(signal?: AbortSignal): Promise<readonly SecretStore[]>;
  getStore(storeId: string, signal?: AbortSignal): Promise<SecretStore>;
  updateStore(
    storeId: string,
    changes: { readonly name?: string; readonly hosts?: readonly string[] },
    signal?: AbortSignal,
  ): Promise<SecretStore>;
  /** Deletes a store with its secrets. */
  deleteStore(storeId: string, signal?: AbortSignal): Promise<void>;
  /** The secrets of a store by name. */
  list(storeId: string, signal?: AbortSignal): Promise<readonly Secret[]>;
  /** Sets a secret, with hosts of its own if they are given. */
  set(
    storeId: string,
    secret: { readonly name: string; readonly value: string; readonly hosts?: readonly string[] },
    signal?: AbortSignal,
  ): Promise<SecretSet>;
  delete(storeId: string, name: string, signal?: AbortSignal): Promise<void>;
}

export function secretsClient(http: HttpClient): SecretsClient {
  return {
    async createStore({ name, hosts }, signal) {
      const body = { name, ...(hosts === undefined ? {} : { egressAllowlist: [...hosts] }) };
      return storeOf(await http.call(createSecretStore, { body }, signal));
    },
    async listStores(signal) {
      return (await http.call(listSecretStores, {}, signal)).map(storeOf);
    },
    async getStore(storeId, signal) {
      return storeOf(await http.call(getSecretStore, { parameters: { storeId } }, signal));
    },
    async updateStore(storeId, { name, hosts }, signal) {
      const body = {
        ...(name === undefined ? {} : { name }),
        ...(hosts === undefined ? {} : { egressAllowlist: [...hosts] }),
      };
      return storeOf(await http.call(updateSecretStore, { parameters: { storeId }, body }, signal));
    },
    async deleteStore(storeId, signal) {
      await http.call(deleteSecretStore, { parameters: { storeId } }, signal);
    },
    async list(storeId, signal) {
      return (await http.call(listSecrets, { parameters: { storeId } }, signal)).map(secretOf);
    },
    async set(storeId, { name: secretName, value, hosts }, signal) {
      const body = { value, ...(hosts === undefined ? {} : { allowedHosts: [...hosts] }) };
      const options = { parameters: { storeId, secretName }, body };
      const { refreshed = 0, refreshErrors = [] } = await http.call(setSecret, options, signal);
      return { refreshed, errors: refreshErrors };
    },
    async delete(storeId, secretName, signal) {
      await http.call(deleteSecret, { parameters: { storeId, secretName } }, signal);
    },
  };
}

function storeOf({ id, orgId, name, egressAllowlist, createdAt, updatedAt }: SecretStoreReply): SecretStore {
  return { id, organizationId: orgId, name, hosts: egressAllowlist, createdAt, updatedAt };
}

function secretOf({ id, storeId, name, allowedHosts, createdAt, updatedAt }: SecretReply): Secret {
  return { id, storeId, name, hosts: allowedHosts, createdAt, updatedAt };
}
