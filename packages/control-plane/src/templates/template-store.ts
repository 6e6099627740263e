import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { Transaction } from "kysely";
import type { Database } from "#database/database.ts";
import { rowOf, rowReader } from "#database/rows.ts";
import type { Tables } from "#database/tables.ts";
import { inTransaction, lockOrganization } from "#database/transaction.ts";
import type { Template, TemplateBuild, TemplateLog } from "./template.ts";

const templateFrom = rowReader<Template>({ isPublic: "boolean", createdAt: "date" });
const buildFrom = rowReader<TemplateBuild>({
  tags: "json",
  definition: "json",
  createdAt: "date",
  finishedAt: "date",
});

/** Every column but the log. */
const buildColumns = [
  ...(["id", "template_id", "organization_id", "status", "tags", "vcpus", "memory_mib", "definition"] as const),
  ...(["checkpoint_id", "worker_id", "created_at", "finished_at", "error", "failed_step"] as const),
] as const;

/** An organization has no more templates than this. */
const maxTemplates = 1000;

export interface TemplateTag {
  readonly tag: string;
  readonly buildId: string;
  readonly createdAt: Date;
}

/** The rows of templates, their builds and their tags. */
export class TemplateStore {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  /**
   * The template of that name, added if the organization has none.
   * @throws `quota_exceeded` when the organization has too many
   */
  async provide(template: Template): Promise<Template> {
    return await inTransaction(this.#database, async (transaction) => {
      await lockOrganization(transaction, template.organizationId);
      const rows = await transaction
        .selectFrom("templates")
        .selectAll()
        .where("organization_id", "=", template.organizationId)
        .execute();
      const known = rows.find(({ name }) => name === template.name);
      if (known !== undefined) return templateFrom(known);
      if (rows.length >= maxTemplates) {
        throw new SandboxError(
          "quota_exceeded",
          `the organization has ${maxTemplates} templates, which is the limit: delete one`,
        );
      }
      await transaction.insertInto("templates").values(rowOf(template)).execute();
      return template;
    });
  }

  /** The organization's own template with this name or id, or else the public one with this id. */
  async find(organizationId: string, word: string): Promise<Template | undefined> {
    const rows = await this.#database
      .selectFrom("templates")
      .selectAll()
      .where((row) => row.or([row("name", "=", word), row("id", "=", word)]))
      .where((row) =>
        row.or([
          row("organization_id", "=", organizationId),
          row.and([row("is_public", "=", 1), row("id", "=", word)]),
        ]),
      )
      .execute();
    const row = rows.find(({ name }) => name === word) ?? rows[0];
    return row && templateFrom(row);
  }

  /** The organization's own template with this name or id. @throws `not_found` */
  async get(organizationId: string, word: string): Promise<Template> {
    const found = await this.find(organizationId, word);
    if (found?.organizationId === organizationId) return found;
    throw templateNotFound(word);
  }

  /** The templates of an organization, newest first. */
  async list(organizationId: string): Promise<Template[]> {
    const rows = await this.#database
      .selectFrom("templates")
      .selectAll()
      .where("organization_id", "=", organizationId)
      .orderBy("created_at", "desc")
      .orderBy("id")
      .execute();
    return rows.map(templateFrom);
  }

  async setPublic(id: string, isPublic: boolean): Promise<void> {
    await this.#database
      .updateTable("templates")
      .set({ is_public: isPublic ? 1 : 0 })
      .where("id", "=", id)
      .execute();
  }

  /** Removes a template with its builds and tags. @returns the builds, whose checkpoints nothing refers to now */
  async remove(id: string): Promise<TemplateBuild[]> {
    return await inTransaction(this.#database, async (transaction) => {
      await transaction.deleteFrom("templates").where("id", "=", id).execute();
      await transaction.deleteFrom("template_tags").where("template_id", "=", id).execute();
      const rows = await transaction
        .deleteFrom("template_builds")
        .where("template_id", "=", id)
        .returning(buildColumns)
        .execute();
      return rows.map(buildFrom);
    });
  }

  async addBuild(build: TemplateBuild): Promise<void> {
    await this.#database.insertInto("template_builds").values(rowOf(build)).execute();
  }

  /** @throws `not_found` */
  async getBuild(templateId: string, id: string): Promise<TemplateBuild> {
    const row = await this.#database
      .selectFrom("template_builds")
      .select(buildColumns)
      .where("id", "=", id)
      .where("template_id", "=", templateId)
      .executeTakeFirst();
    if (row !== undefined) return buildFrom(row);
    throw new SandboxError("not_found", "build not found", { resource: "template build", id });
  }

  /** The builds of a template, newest first. */
  async listBuilds(templateId: string): Promise<TemplateBuild[]> {
    const rows = await this.#database
      .selectFrom("template_builds")
      .select(buildColumns)
      .where("template_id", "=", templateId)
      .orderBy("created_at", "desc")
      .orderBy("id")
      .execute();
    return rows.map(buildFrom);
  }

  async listUnfinished(): Promise<TemplateBuild[]> {
    const rows = await this.#database
      .selectFrom("template_builds")
      .select(buildColumns)
      .where("status", "in", ["waiting", "building"])
      .execute();
    return rows.map(buildFrom);
  }

  /** Marks a waiting build as `building`. False: it was started already. */
  async start(
    id: string,
    { definition, workerId }: Required<Pick<TemplateBuild, "definition" | "workerId">>,
  ): Promise<boolean> {
    const { numUpdatedRows } = await this.#database
      .updateTable("template_builds")
      .set({ status: "building", definition: JSON.stringify(definition), worker_id: workerId })
      .where("id", "=", id)
      .where("status", "=", "waiting")
      .executeTakeFirst();
    return numUpdatedRows === 1n;
  }

  /**
   * Marks a build as `ready` and gives it its tags. Ready builds of the template that no tag names any more are removed.
   * @returns the removed builds; undefined when the build itself was removed meanwhile
   */
  async finish(
    { id, templateId, tags }: Pick<TemplateBuild, "id" | "templateId" | "tags">,
    {
      checkpointId,
      log,
      finishedAt,
    }: { readonly checkpointId: string; readonly log: readonly TemplateLog[]; readonly finishedAt: Date },
  ): Promise<TemplateBuild[] | undefined> {
    return await inTransaction(this.#database, async (transaction) => {
      const { numUpdatedRows } = await transaction
        .updateTable("template_builds")
        .set({
          status: "ready",
          checkpoint_id: checkpointId,
          finished_at: finishedAt.getTime(),
          log: JSON.stringify(log),
        })
        .where("id", "=", id)
        .executeTakeFirst();
      if (numUpdatedRows !== 1n) return undefined;
      return await setTags(transaction, { templateId, buildId: id, tags, createdAt: finishedAt });
    });
  }

  async fail(
    id: string,
    failure: {
      readonly error: string;
      readonly failedStep: string;
      readonly log: readonly TemplateLog[];
      readonly finishedAt: Date;
    },
  ): Promise<void> {
    await this.#database
      .updateTable("template_builds")
      .set({
        status: "failed",
        error: failure.error,
        failed_step: failure.failedStep,
        finished_at: failure.finishedAt.getTime(),
        log: JSON.stringify(failure.log),
      })
      .where("id", "=", id)
      .execute();
  }

  /** The log of a build that has ended. */
  async logOf(buildId: string): Promise<TemplateLog[]> {
    const row = await this.#database
      .selectFrom("template_builds")
      .select("log")
      .where("id", "=", buildId)
      .executeTakeFirst();
    return row === undefined ? [] : (JSON.parse(row.log) as TemplateLog[]);
  }

  /** The tags of a template, newest first. */
  async listTags(templateId: string): Promise<TemplateTag[]> {
    const rows = await this.#database
      .selectFrom("template_tags")
      .select(["tag", "build_id", "created_at"])
      .where("template_id", "=", templateId)
      .orderBy("created_at", "desc")
      .orderBy("tag")
      .execute();
    return rows.map((row) => ({ tag: row.tag, buildId: row.build_id, createdAt: new Date(row.created_at) }));
  }

  /** The ready build that a tag names. */
  async tagged(templateId: string, tag: string): Promise<TemplateBuild | undefined> {
    const row = await this.#database
      .selectFrom("template_builds")
      .innerJoin("template_tags", "template_tags.build_id", "template_builds.id")
      .select(buildColumns.map((column) => `template_builds.${column}` as const))
      .where("template_tags.template_id", "=", templateId)
      .where("template_tags.tag", "=", tag)
      .executeTakeFirst();
    return row && buildFrom(row);
  }

  /** Makes tags name a build. @returns the builds that are removed since no tag names them any more */
  async tag(
    templateId: string,
    {
      buildId,
      tags,
      createdAt,
    }: { readonly buildId: string; readonly tags: readonly string[]; readonly createdAt: Date },
  ): Promise<TemplateBuild[]> {
    return await inTransaction(this.#database, (transaction) =>
      setTags(transaction, { templateId, buildId, tags, createdAt }),
    );
  }

  /** Removes tags. @returns the builds that are removed since no tag names them any more */
  async untag(templateId: string, tags: readonly string[]): Promise<TemplateBuild[]> {
    return await inTransaction(this.#database, async (transaction) => {
      await transaction
        .deleteFrom("template_tags")
        .where("template_id", "=", templateId)
        .where("tag", "in", tags)
        .execute();
      return await removeUntagged(transaction, templateId);
    });
  }
}

async function setTags(
  transaction: Transaction<Tables>,
  {
    templateId,
    buildId,
    tags,
    createdAt,
  }: {
    readonly templateId: string;
    readonly buildId: string;
    readonly tags: readonly string[];
    readonly createdAt: Date;
  },
): Promise<TemplateBuild[]> {
  for (const tag of tags) {
    await transaction
      .insertInto("template_tags")
      .values({ template_id: templateId, tag, build_id: buildId, created_at: createdAt.getTime() })
      .onConflict((conflict) =>
        conflict.columns(["template_id", "tag"]).doUpdateSet({ build_id: buildId, created_at: createdAt.getTime() }),
      )
      .execute();
  }
  return await removeUntagged(transaction, templateId);
}

async function removeUntagged(transaction: Transaction<Tables>, templateId: string): Promise<TemplateBuild[]> {
  const rows = await transaction
    .deleteFrom("template_builds")
    .where("template_id", "=", templateId)
    .where("status", "=", "ready")
    .where((row) =>
      row.not(
        row.exists(
          row
            .selectFrom("template_tags")
            .select("template_tags.tag")
            .whereRef("template_tags.build_id", "=", "template_builds.id"),
        ),
      ),
    )
    .returning(buildColumns)
    .execute();
  return rows.map(buildFrom);
}

export function templateNotFound(word: string): SandboxError<"not_found"> {
  return new SandboxError("not_found", `template '${word}' not found`, { resource: "template", id: word });
}
