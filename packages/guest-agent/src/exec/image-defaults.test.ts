import assert from "node:assert/strict";
import { test } from "node:test";
import { parseImageDefaults } from "./image-defaults.ts";

test("commands of an imported image have its environment, user and working directory", () => {
  const note = { env: ["PATH=/opt/bin", "EMPTY=", "A=b=c"], user: "node", workdir: "/app", command: ["x"] };
  assert.deepEqual(parseImageDefaults(JSON.stringify(note)), {
    environment: { PATH: "/opt/bin", EMPTY: "", A: "b=c" },
    user: "node",
    workdir: "/app",
  });
});

for (const text of ["", "{", "7", "null", "[]", '{"env":7,"user":8,"workdir":[]}', '{"env":["=a",3,"b","\u0000=c"]}']) {
  test(`${JSON.stringify(text)} gives the defaults of images with a recipe`, () => {
    assert.deepEqual(parseImageDefaults(text), { environment: {}, user: "sandbox", workdir: "" });
  });
}
