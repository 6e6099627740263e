import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { isSandboxError } from "@opensandbox/wire/errors.ts";
import { imageSource } from "./image-source.ts";
import { readRecipe, recipeNames } from "./recipe.ts";

test("every shipped image has a usable recipe", async () => {
  const source = imageSource({ imagesDirectory: "/unused" });
  const names = await recipeNames(source);
  assert.deepEqual(names, ["builder", "default", "docker", "minimal"]);
  for (const name of names) assert.equal((await readRecipe(source, name)).name, name);
});

test("an unknown image is refused with the names of all images", async () => {
  await assert.rejects(readRecipe(imageSource({ imagesDirectory: "/unused" }), "../minimal"), (error) => {
    assert.ok(isSandboxError(error, "not_found"));
    assert.deepEqual(error.details, { resource: "image", id: "../minimal" });
    assert.match(error.message, /there are: builder, default, docker, minimal$/);
    return true;
  });
});

for (const [what, recipe, words] of [
  ["invalid JSON", "{", /not valid JSON/],
  ["a suite that is not a word", { suite: "trixie; rm" }, /suite/],
  ["packages that are options", { packages: ["--allow-unauthenticated"] }, /packages/],
  ["services that are paths", { services: { "../passwd": "true" } }, /services/],
  ["a service that is a script", { services: { a: "true; reboot" } }, /services/],
  ["groups that are options", { groups: ["--root=/"] }, /groups/],
  ["a size that is too small for Debian", { rootfsMib: 10 }, /rootfsMib/],
] as const) {
  test(`a recipe with ${what} is refused with its file and the reason`, async (t) => {
    const directory = await mkdtemp(join(tmpdir(), "osb-recipes-"));
    t.after(() => rm(directory, { recursive: true }));
    const whole = { description: "a test", suite: "trixie", packages: ["bash"], rootfsMib: 2048, buildMib: 1000 };
    const text = typeof recipe === "string" ? recipe : JSON.stringify({ ...whole, ...recipe });
    await writeFile(join(directory, "broken.json"), text);
    const source = imageSource({ imagesDirectory: "/unused", recipesDirectory: directory });
    await assert.rejects(readRecipe(source, "broken"), (error) => {
      assert.ok(isSandboxError(error, "invalid_argument"));
      assert.match(error.message, words);
      assert.ok(error.message.startsWith(join(directory, "broken.json")));
      return true;
    });
  });
}
