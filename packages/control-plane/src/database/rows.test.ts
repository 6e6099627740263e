import assert from "node:assert/strict";
import { test } from "node:test";
import { rowOf, rowReader } from "./rows.ts";

interface Thing {
  readonly id: string;
  readonly sizeBytes: number;
  readonly isPublic: boolean;
  readonly createdAt: Date;
  readonly endedAt?: Date | undefined;
  readonly envs: Readonly<Record<string, string>>;
}

const read = rowReader<Thing>({ isPublic: "boolean", createdAt: "date", endedAt: "date", envs: "json" });

test("an object comes back from its row as it was", () => {
  for (const thing of [
    { id: "a", sizeBytes: 0, isPublic: true, createdAt: new Date(1), endedAt: new Date(2), envs: { B: "c" } },
    { id: "", sizeBytes: 2 ** 40, isPublic: false, createdAt: new Date(0), endedAt: undefined, envs: {} },
  ]) {
    const row = rowOf<Thing>(thing);
    assert.deepEqual(Object.keys(row), ["id", "size_bytes", "is_public", "created_at", "ended_at", "envs"]);
    for (const value of Object.values(row)) assert.match(typeof value, value === null ? /object/ : /string|number/);
    assert.deepEqual(read(row), thing);
  }
});
