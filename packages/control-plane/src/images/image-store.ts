import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import { inTransaction } from "#database/transaction.ts";
import type { Image } from "./image.ts";

const fromRow = rowReader<Image>({ manifest: "json", createdAt: "date", lastUsedAt: "date" });

/** The rows of images. */
export class ImageStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /** Adds an image, in place of a failed one of the same name. @throws `already_exists` for any other of that name */
  async add(image: Image): Promise<void> {
    await inTransaction(this.#database, async (transaction) => {
      if (image.name !== undefined) {
        const named = await transaction
          .selectFrom("images")
          .select(["id", "status"])
          .where("organization_id", "=", image.organizationId)
          .where("name", "=", image.name)
          .executeTakeFirst();
        if (named !== undefined && named.status !== "failed") {
          throw new SandboxError("already_exists", "snapshot name already exists", {
            resource: "snapshot",
            id: image.name,
          });
        }
        if (named !== undefined) await transaction.deleteFrom("images").where("id", "=", named.id).execute();
      }
      await transaction.insertInto("images").values(rowOf(image)).execute();
    });
  }

  async find(id: string): Promise<Image | undefined> {
    const row = await this.#database.selectFrom("images").selectAll().where("id", "=", id).executeTakeFirst();
    return row && fromRow(row);
  }

  /** The image of that name. @throws `not_found` */
  async get(organizationId: string, name: string): Promise<Image> {
    const row = await this.#database
      .selectFrom("images")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("name", "=", name)
      .executeTakeFirst();
    if (row === undefined) throw imageNotFound(name);
    return fromRow(row);
  }

  /** The image with that name, id or content hash. @throws `not_found` */
  async getAny(organizationId: string, word: string): Promise<Image> {
    const rows = await this.#database
      .selectFrom("images")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where((row) =>
        row.or([
          row("name", "=", word),
          row("id", "=", word),
          row.and([row("content_hash", "=", word), row("name", "is", null)]),
        ]),
      )
      .execute();
    const row = rows.find(({ name }) => name === word) ?? rows[0];
    if (row === undefined) throw imageNotFound(word);
    return fromRow(row);
  }

  /** The unnamed, ready image with that content. */
  async findByContent(organizationId: string, contentHash: string): Promise<Image | undefined> {
    const row = await this.#database
      .selectFrom("images")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .where("content_hash", "=", contentHash)
      .where("name", "is", null)
      .where("status", "=", "ready")
      .executeTakeFirst();
    return row && fromRow(row);
  }

  /** The images of an organization, newest first. */
  async list(organizationId: string): Promise<Image[]> {
    const rows = await this.#database
      .selectFrom("images")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .orderBy("created_at", "desc")
      .orderBy("id")
      .execute();
    return rows.map(fromRow);
  }

  /** Disk space of each ready image of an organization that no other snapshot shares, by the image's id. */
  async sizesOf(organizationId: string): Promise<ReadonlyMap<string, number>> {
    const rows = await this.#database
      .selectFrom("images")
      .innerJoin("checkpoints", "checkpoints.id", "images.checkpoint_id")
      .select(["images.id", "checkpoints.size_bytes"])
      .where("images.organization_id", "=", organizationId)
      .execute();
    return new Map(rows.map(({ id, size_bytes: bytes }) => [id, bytes]));
  }

  async listBuilding(): Promise<Image[]> {
    const rows = await this.#database.selectFrom("images").selectAll().where("status", "=", "building").execute();
    return rows.map(fromRow);
  }

  /** Marks an image `ready`. Undefined: it was deleted meanwhile. */
  async finish(id: string, checkpointId: string): Promise<Image | undefined> {
    const row = await this.#database
      .updateTable("images")
      .set({ status: "ready", checkpoint_id: checkpointId })
      .where("id", "=", id)
      .returningAll()
      .executeTakeFirst();
    return row && fromRow(row);
  }

  async fail(id: string, error: string): Promise<void> {
    await this.#database.updateTable("images").set({ status: "failed", error }).where("id", "=", id).execute();
  }

  /** Records a use, which keeps an unnamed image from removal. False: it was removed meanwhile. */
  async touch(id: string, lastUsedAt: Date): Promise<boolean> {
    const { numUpdatedRows } = await this.#database
      .updateTable("images")
      .set({ last_used_at: lastUsedAt.getTime() })
      .where("id", "=", id)
      .executeTakeFirst();
    return numUpdatedRows === 1n;
  }

  async remove(id: string): Promise<void> {
    await this.#database.deleteFrom("images").where("id", "=", id).execute();
  }
}

export function imageNotFound(name: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", "snapshot not found", { resource: "snapshot", id: name });
}
