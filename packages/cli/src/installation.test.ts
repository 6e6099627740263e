import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { isCheckout, launcherPath, requireCheckout, requirePermanent } from "./installation.ts";

test("this checkout has the launcher and the sources", () => {
  assert.ok(existsSync(launcherPath), launcherPath);
  assert.ok(isCheckout());
  requireCheckout("osb bench");
});

test("a program in the cache of npx becomes no service", () => {
  assert.throws(
    () => requirePermanent("/root/.npm/_npx/c37978bef5df2196/node_modules/opensandbox"),
    /is in the cache of npx, from which no service can run: install the Debian package/,
  );
  for (const root of ["/usr/lib/opensandbox", "/opt/opensandbox/0.1.0", "/usr/lib/node_modules/opensandbox"]) {
    requirePermanent(root);
  }
});
