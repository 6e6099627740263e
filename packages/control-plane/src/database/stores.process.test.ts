import { after, suite } from "node:test";
import { PostgresForTest, withoutPostgres } from "#testing/postgres-for-test.ts";
import { storeContract } from "#testing/store-contract.ts";

suite("PostgreSQL", { skip: withoutPostgres }, () => {
  let postgres: PostgresForTest | undefined;
  after(() => postgres?.[Symbol.asyncDispose]());

  storeContract("PostgreSQL", async () => {
    postgres ??= await PostgresForTest.start();
    return await postgres.createDatabase();
  });
});
