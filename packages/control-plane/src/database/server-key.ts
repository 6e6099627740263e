import { randomHex } from "@opensandbox/wire/ids.ts";
import type { Database } from "./database.ts";

/** A key of 256 bits, hexadecimal, that all servers on this database share. Created when missing. */
export async function serverKey(database: Database, name: string): Promise<string> {
  await database
    .insertInto("server_keys")
    .values({ name, key: randomHex(32) })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  const { key } = await database
    .selectFrom("server_keys")
    .select("key")
    .where("name", "=", name)
    .executeTakeFirstOrThrow();
  return key;
}
