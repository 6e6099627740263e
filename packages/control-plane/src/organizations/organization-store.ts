import { SandboxError } from "@opensandbox/wire/errors.ts";
import { randomHex } from "@opensandbox/wire/ids.ts";
import type { Database } from "#database/database.ts";
import { rowReader } from "#database/rows.ts";
import type { Limits } from "#lifecycle/limits.ts";

/** Limits of one organization, which replace those of the server. Absent: the server's. */
export interface OrganizationLimits {
  readonly maxSandboxes?: number | undefined;
  readonly maxMemoryMib?: number | undefined;
  readonly maxDiskMib?: number | undefined;
}

export interface Organization extends OrganizationLimits {
  readonly id: string;
  readonly name: string;
  readonly createdAt: Date;
  /** Since then, its keys are refused. */
  readonly revokedAt?: Date | undefined;
}

const fromRow = rowReader<Organization & { readonly number?: number | undefined }>({
  createdAt: "date",
  revokedAt: "date",
});

/** The rows of organizations. */
export class OrganizationStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds an organization with a new id. */
  async create(name: string, limits: OrganizationLimits, createdAt: Date): Promise<Organization> {
    const id = `org-${randomHex(8)}`;
    const row = { id, name, created_at: createdAt.getTime(), ...columnsOf(limits) };
    await this.#database.insertInto("organizations").values(row).execute();
    return await this.get(id);
  }

  /** @throws `not_found` */
  async get(id: string): Promise<Organization> {
    const row = await this.#database.selectFrom("organizations").selectAll().where("id", "=", id).executeTakeFirst();
    if (row === undefined) throw organizationNotFound(id);
    return organizationOf(row);
  }

  /** All organizations, oldest first. */
  async list(): Promise<readonly Organization[]> {
    const rows = await this.#database
      .selectFrom("organizations")
      .selectAll()
      .orderBy("created_at")
      .orderBy("id")
      .execute();
    return rows.map(organizationOf);
  }

  /** Changes the given limits. Null removes a limit. @throws `not_found` */
  async setLimits(id: string, limits: { readonly [Name in keyof OrganizationLimits]: number | null | undefined }) {
    await this.get(id);
    const changes = columnsOf(limits);
    if (Object.keys(changes).length > 0) {
      await this.#database.updateTable("organizations").set(changes).where("id", "=", id).execute();
    }
    return await this.get(id);
  }

  /** Revokes an organization, which refuses all its keys, or restores it. @throws `not_found` */
  async setRevoked(id: string, revokedAt: Date | undefined): Promise<Organization> {
    await this.get(id);
    const revoked_at = revokedAt?.getTime() ?? null;
    await this.#database.updateTable("organizations").set({ revoked_at }).where("id", "=", id).execute();
    return await this.get(id);
  }

  /** The limits of an organization: its own, and the server's where it has none. */
  async limitsOf(id: string, server: Limits): Promise<Limits> {
    const row = await this.#database
      .selectFrom("organizations")
      .select(["max_sandboxes", "max_memory_mib", "max_disk_mib"])
      .where("id", "=", id)
      .executeTakeFirst();
    if (row === undefined) return server;
    return {
      ...server,
      ...(row.max_sandboxes === null ? {} : { maxSandboxes: row.max_sandboxes }),
      ...(row.max_memory_mib === null ? {} : { organizationMemoryMib: row.max_memory_mib }),
      ...(row.max_disk_mib === null ? {} : { organizationDiskMib: row.max_disk_mib }),
    };
  }
}

function organizationOf(row: Parameters<typeof fromRow>[0]): Organization {
  const { number: _, ...organization } = fromRow(row);
  return organization;
}

/** The columns of the given limits. */
function columnsOf(limits: { readonly [Name in keyof OrganizationLimits]: number | null | undefined }) {
  const { maxSandboxes, maxMemoryMib, maxDiskMib } = limits;
  return {
    ...(maxSandboxes === undefined ? {} : { max_sandboxes: maxSandboxes }),
    ...(maxMemoryMib === undefined ? {} : { max_memory_mib: maxMemoryMib }),
    ...(maxDiskMib === undefined ? {} : { max_disk_mib: maxDiskMib }),
  };
}

function organizationNotFound(id: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", `organization ${id} does not exist`, { resource: "organization", id });
}
