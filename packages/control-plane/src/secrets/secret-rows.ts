import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sql } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { SecretRow, SecretStoreRow } from "#database/tables.ts";
import { inTransaction, lockOrganization } from "#database/transaction.ts";
import type { MasterKeys } from "./master-keys.ts";
import type { NewSecret, Secret, SecretStore } from "./secret.ts";

const maxStores = 1000;
const maxSecrets = 100;

const storeOf = rowReader<SecretStore>({ hosts: "json", createdAt: "date", updatedAt: "date" });
const secretOf = rowReader<Secret & { readonly value: string }>({
  hosts: "json",
  createdAt: "date",
  updatedAt: "date",
});

/** A certificate authority of sandboxes, PEM. */
export interface GuestAuthority {
  readonly certificate: string;
  readonly privateKey: string;
}

/** The rows of secret stores, secrets and authorities. Values and private keys are encrypted with the master key. */
export class SecretRows {
  readonly #database: Database;
  readonly #keys: MasterKeys;

  constructor(database: Database, keys: MasterKeys) {
    this.#database = database;
    this.#keys = keys;
  }

  /** @throws `already_exists` when the organization has a store of that name, `quota_exceeded` when it has too many */
  async addStore(
    organizationId: string,
    { name, hosts }: Pick<SecretStore, "name" | "hosts">,
    now: Date,
  ): Promise<SecretStore> {
    this.#keys.require();
    const store = { id: randomUUID(), organizationId, name, hosts, createdAt: now, updatedAt: now };
    await inTransaction(this.#database, async (transaction) => {
      await lockOrganization(transaction, organizationId);
      const { count } = await transaction
        .selectFrom("secret_stores")
        .select(({ fn }) => fn.countAll<number>().as("count"))
        .where("organization_id", "=", organizationId)
        .executeTakeFirstOrThrow();
      if (count >= maxStores) {
        throw new SandboxError(
          "quota_exceeded",
          `an organization has at most ${maxStores} secret stores: delete one first`,
        );
      }
      const { numInsertedOrUpdatedRows } = await transaction
        .insertInto("secret_stores")
        .values(rowOf(store))
        .onConflict((conflict) => conflict.doNothing())
        .executeTakeFirst();
      if (numInsertedOrUpdatedRows !== 1n) throw nameUsed(name);
    });
    return store;
  }

  /** The oldest first. */
  async listStores(organizationId: string): Promise<readonly SecretStore[]> {
    const rows = await this.#database
      .selectFrom("secret_stores")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(storeOf);
  }

  /** @throws `not_found`, also when the store belongs to another organization */
  async getStore(organizationId: string, id: string): Promise<SecretStore> {
    const row = await this.#database
      .selectFrom("secret_stores")
      .selectAll()
      .where("id", "=", id)
      .where("organization_id", "=", organizationId)
      .executeTakeFirst();
    if (row === undefined) throw storeNotFound(id);
    return storeOf(row);
  }

  /** @throws `not_found` */
  async findStoreByName(organizationId: string, name: string): Promise<SecretStore> {
    const row = await this.#database
      .selectFrom("secret_stores")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("name", "=", name)
      .executeTakeFirst();
    if (row === undefined) throw storeNotFound(name);
    return storeOf(row);
  }

  /** @throws `not_found`, or `already_exists` when another store has the name */
  async updateStore(
    organizationId: string,
    id: string,
    changes: Partial<Pick<SecretStore, "name" | "hosts">>,
    now: Date,
  ): Promise<SecretStore> {
    return await inTransaction(this.#database, async (transaction) => {
      await lockOrganization(transaction, organizationId);
      if (changes.name !== undefined) {
        const other = await transaction
          .selectFrom("secret_stores")
          .select("id")
          .where("organization_id", "=", organizationId)
          .where("name", "=", changes.name)
          .where("id", "<>", id)
          .executeTakeFirst();
        if (other !== undefined) throw nameUsed(changes.name);
      }
      const row = await transaction
        .updateTable("secret_stores")
        .set(rowOf({ ...changes, updatedAt: now }) as Partial<SecretStoreRow>)
        .where("id", "=", id)
        .where("organization_id", "=", organizationId)
        .returningAll()
        .executeTakeFirst();
      if (row === undefined) throw storeNotFound(id);
      return storeOf(row);
    });
  }

  /** Removes a store with its secrets. @throws `not_found` */
  async removeStore(organizationId: string, id: string): Promise<void> {
    await inTransaction(this.#database, async (transaction) => {
      const { numDeletedRows } = await transaction
        .deleteFrom("secret_stores")
        .where("id", "=", id)
        .where("organization_id", "=", organizationId)
        .executeTakeFirst();
      if (numDeletedRows === 0n) throw storeNotFound(id);
      await transaction.deleteFrom("secrets").where("store_id", "=", id).execute();
    });
  }

  /** Adds a secret or replaces its value. @throws `not_found` for the store, `quota_exceeded` when it has too many */
  async setSecret(
    organizationId: string,
    storeId: string,
    { name, value, hosts }: NewSecret,
    now: Date,
  ): Promise<void> {
    this.#keys.require();
    await inTransaction(this.#database, async (transaction) => {
      await lockOrganization(transaction, organizationId);
      const store = await transaction
        .updateTable("secret_stores")
        .set({ updated_at: now.getTime() })
        .where("id", "=", storeId)
        .where("organization_id", "=", organizationId)
        .returning("id")
        .executeTakeFirst();
      if (store === undefined) throw storeNotFound(storeId);
      const present = await transaction
        .selectFrom("secrets")
        .select(["id", "name"])
        .where("store_id", "=", storeId)
        .execute();
      const earlier = present.find((secret) => secret.name === name);
      if (earlier !== undefined) {
        const changes = {
          value: this.#keys.seal(value, earlier.id),
          updatedAt: now,
          ...(hosts === undefined ? {} : { hosts }),
        };
        await transaction
          .updateTable("secrets")
          .set(rowOf(changes) as Partial<SecretRow>)
          .where("id", "=", earlier.id)
          .execute();
        return;
      }
      if (present.length >= maxSecrets) {
        throw new SandboxError("quota_exceeded", `a secret store has at most ${maxSecrets} secrets: delete one first`);
      }
      const id = randomUUID();
      const secret = {
        id,
        storeId,
        name,
        value: this.#keys.seal(value, id),
        hosts: hosts ?? [],
        createdAt: now,
        updatedAt: now,
      };
      await transaction.insertInto("secrets").values(rowOf(secret)).execute();
    });
  }

  /** By name. @throws `not_found` for the store */
  async listSecrets(organizationId: string, storeId: string): Promise<readonly Secret[]> {
    await this.getStore(organizationId, storeId);
    const rows = await this.#database
      .selectFrom("secrets")
      .selectAll()
      .where("store_id", "=", storeId)
      .orderBy("name")
      .execute();
    return rows.map(secretOf);
  }

  /** @throws `not_found` for the store or the secret */
  async removeSecret(organizationId: string, storeId: string, name: string): Promise<void> {
    await this.getStore(organizationId, storeId);
    const { numDeletedRows } = await this.#database
      .deleteFrom("secrets")
      .where("store_id", "=", storeId)
      .where("name", "=", name)
      .executeTakeFirst();
    if (numDeletedRows === 0n) {
      throw new SandboxError("not_found", "secret not found", { resource: "secret", id: name });
    }
  }

  /** The stores of an organization in the given order, with the values of their secrets. Deleted stores are left out. */
  async read(
    organizationId: string,
    storeIds: readonly string[],
  ): Promise<readonly (SecretStore & { readonly secrets: readonly (Secret & { readonly value: string })[] })[]> {
    if (storeIds.length === 0) return [];
    const stores = await this.#database
      .selectFrom("secret_stores")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("id", "in", [...storeIds])
      .execute();
    const secrets = await this.#database
      .selectFrom("secrets")
      .selectAll()
      .where("store_id", "in", [...storeIds])
      .orderBy("name")
      .execute();
    return storeIds.flatMap((id) => {
      const store = stores.find((row) => row.id === id);
      if (store === undefined) return [];
      const own = secrets.filter(({ store_id }) => store_id === id).map(secretOf);
      return [
        {
          ...storeOf(store),
          secrets: own.map((secret) => ({ ...secret, value: this.#keys.open(secret.value, secret.id) })),
        },
      ];
    });
  }

  async addAuthority({ certificate, privateKey }: GuestAuthority, now: Date): Promise<string> {
    const id = randomUUID();
    const row = { id, certificate, private_key: this.#keys.seal(privateKey, id), created_at: now.getTime() };
    await this.#database.insertInto("guest_authorities").values(row).execute();
    return id;
  }

  /** @throws `not_found` */
  async authority(id: string): Promise<GuestAuthority> {
    const row = await this.#database
      .selectFrom("guest_authorities")
      .selectAll()
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined) {
      throw new SandboxError("not_found", "the certificate authority of the sandbox is gone", {
        resource: "secret",
        id,
      });
    }
    return { certificate: row.certificate, privateKey: this.#keys.open(row.private_key, id) };
  }

  /** Removes authorities from before `before` that neither a sandbox nor a checkpoint has. */
  async removeUnusedAuthorities(before: Date): Promise<void> {
    await sql`DELETE FROM guest_authorities WHERE created_at < ${before.getTime()}
      AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE authority_id = guest_authorities.id AND state <> 'stopped')
      AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE authority_id = guest_authorities.id)`.execute(this.#database);
  }

  /**
   * Encrypts with the first master key what another one has encrypted. Texts that need a key that this server does not
   * have stay as they are. Returns how many texts there were of each kind.
   */
  async encryptAgain(): Promise<{ readonly encrypted: number; readonly unreadable: number }> {
    const counts = { encrypted: 0, unreadable: 0 };
    if (this.#keys.isEmpty) return counts;
    const again = (sealed: string, owner: string): string | undefined => {
      if (this.#keys.isCurrent(sealed)) return undefined;
      if (!this.#keys.canOpen(sealed)) {
        counts.unreadable += 1;
        return undefined;
      }
      counts.encrypted += 1;
      return this.#keys.seal(this.#keys.open(sealed, owner), owner);
    };
    await inTransaction(this.#database, async (transaction) => {
      Object.assign(counts, { encrypted: 0, unreadable: 0 });
      for (const { id, value } of await transaction.selectFrom("secrets").select(["id", "value"]).execute()) {
        const sealed = again(value, id);
        if (sealed === undefined) continue;
        await transaction.updateTable("secrets").set({ value: sealed }).where("id", "=", id).execute();
      }
      const authorities = transaction.selectFrom("guest_authorities").select(["id", "private_key"]);
      for (const { id, private_key: key } of await authorities.execute()) {
        const sealed = again(key, id);
        if (sealed === undefined) continue;
        await transaction.updateTable("guest_authorities").set({ private_key: sealed }).where("id", "=", id).execute();
      }
    });
    return counts;
  }
}

function nameUsed(name: string): SandboxError<"already_exists"> {
  return new SandboxError("already_exists", "secret store name already exists", { resource: "secret store", id: name });
}

function storeNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "secret store not found", { resource: "secret store", id });
}
