import { randomUUID } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { sshKeyNotFound } from "@opensandbox/wire/public/ssh.ts";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { PublicKey } from "./public-key.ts";

/** A public key that may connect to the sandboxes of an organization. */
export interface SshKey {
  readonly id: string;
  readonly organizationId: string;
  readonly name: string;
  readonly type: string;
  /** The key as it is sent over SSH, in base64. */
  readonly blob: string;
  readonly fingerprint: string;
  readonly createdAt: Date;
  /** Exact to a connection. */
  readonly lastUsedAt?: Date | undefined;
}

const fromRow = rowReader<SshKey>({ createdAt: "date", lastUsedAt: "date" });

/** The most keys of an organization. */
const maxKeys = 1000;

/** The rows of SSH keys. */
export class SshKeyStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** @throws `already_exists` for a key that the organization has, `quota_exceeded` when it has too many */
  async add(organizationId: string, key: PublicKey, name: string, createdAt: Date): Promise<SshKey> {
    const { type, blob, fingerprint } = key;
    const { count } = await this.#database
      .selectFrom("ssh_keys")
      .select(({ fn }) => fn.countAll<number>().as("count"))
      .where("organization_id", "=", organizationId)
      .executeTakeFirstOrThrow();
    if (count >= maxKeys) {
      throw new SandboxError("quota_exceeded", `the organization has ${maxKeys} SSH keys: remove one first`);
    }
    const added: SshKey = { id: randomUUID(), organizationId, name, type, blob, fingerprint, createdAt };
    const row = { ...rowOf(added), last_used_at: null };
    const { numInsertedOrUpdatedRows } = await this.#database
      .insertInto("ssh_keys")
      .values(row)
      .onConflict((conflict) => conflict.columns(["organization_id", "fingerprint"]).doNothing())
      .executeTakeFirstOrThrow();
    if (numInsertedOrUpdatedRows === 1n) return added;
    const message = `the organization has this key already: ${fingerprint}`;
    throw new SandboxError("already_exists", message, { resource: "SSH key", id: fingerprint });
  }

  /** The keys of an organization, oldest first. */
  async list(organizationId: string): Promise<readonly SshKey[]> {
    const rows = await this.#database
      .selectFrom("ssh_keys")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(fromRow);
  }

  /** @throws `not_found` */
  async remove(organizationId: string, id: string): Promise<void> {
    const { numDeletedRows } = await this.#database
      .deleteFrom("ssh_keys")
      .where("organization_id", "=", organizationId)
      .where("id", "=", id)
      .executeTakeFirst();
    if (numDeletedRows === 0n) throw sshKeyNotFound(id);
  }

  /** The entries with this fingerprint: a person may belong to several organizations. */
  async find(fingerprint: string): Promise<readonly SshKey[]> {
    const rows = await this.#database
      .selectFrom("ssh_keys")
      .innerJoin("organizations", "organizations.id", "ssh_keys.organization_id")
      .selectAll("ssh_keys")
      .where("fingerprint", "=", fingerprint)
      .where("organizations.revoked_at", "is", null)
      .execute();
    return rows.map(fromRow);
  }

  /** The given ids whose keys are accepted now. */
  async accepted(ids: readonly string[]): Promise<ReadonlySet<string>> {
    if (ids.length === 0) return new Set();
    const rows = await this.#database
      .selectFrom("ssh_keys")
      .innerJoin("organizations", "organizations.id", "ssh_keys.organization_id")
      .select("ssh_keys.id")
      .where("ssh_keys.id", "in", ids)
      .where("organizations.revoked_at", "is", null)
      .execute();
    return new Set(rows.map(({ id }) => id));
  }

  async setUsed(id: string, at: Date): Promise<void> {
    await this.#database.updateTable("ssh_keys").set({ last_used_at: at.getTime() }).where("id", "=", id).execute();
  }
}
