import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { gzipSync } from "node:zlib";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { skip, type Page } from "./browser.ts";
import { type DashboardWorld, startDashboardWorld, violationsOf } from "./dashboard-world.ts";

// The dashboard in a real browser, on a server with the fake hypervisor.

const hostile = `"><img src=x onerror="window.isScripted=true"><script>window.isScripted=true</script>`;

suite("the dashboard in a browser", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let dashboard: DashboardWorld;
  /** Signed in, and used by one test after the other. */
  let page: Page;

  before(async () => {
    dashboard = stack.use(await startDashboardWorld({ OPENSANDBOX_VM_BACKEND: "fake", OPENSANDBOX_ALLOW_FAKE: "1" }));
    page = await dashboard.signedIn();
  });
  after(() => stack.disposeAsync());

  const shown = (of: Page, text: string): Promise<string | undefined> =>
    eventually(`the page shows ${text}`, async () => {
      const all = await of.evaluate<string>("document.body.innerText");
      return all.includes(text) ? all : undefined;
    });

  test("what it loads first has at most 250 kB", async () => {
    const html = await (await fetch(`${dashboard.world.url}/dashboard`)).text();
    const files = [...html.matchAll(/(?:src|href)="(\/dashboard\/assets\/[^"]+)"/g)].map(([, file = ""]) => file);
    assert.ok(files.length > 2, html);
    let bytes = 0;
    for (const file of files) {
      const content = await (await fetch(dashboard.world.url + file)).bytes();
      bytes += gzipSync(content).length;
    }
    assert.ok(bytes <= 250_000, `${bytes} bytes`);
  });

  test("a key signs in, stays out of the browser's storage, and signing out ends the session", async () => {
    const own = await dashboard.open();
    await own.goto(dashboard.world.url);
    await own.getByLabel("API key").fill("wrong");
    await own.getByRole("button", { name: "Sign in" }).click();
    await own.getByRole("alert").waitFor();
    await own.getByLabel("API key").fill(dashboard.world.apiKey);
    await own.getByRole("button", { name: "Sign in" }).click();
    await own.getByRole("heading", { name: "Sandboxes", exact: true }).waitFor();
    const [cookie, ...others] = await own.context().cookies();
    assert.deepEqual([cookie?.httpOnly, cookie?.sameSite, others], [true, "Strict", []]);
    const stored = await own.evaluate<string>(
      "JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie])",
    );
    assert.ok(!stored.includes(dashboard.world.apiKey), stored);
    await own.reload();
    await own.getByRole("button", { name: "Sign out" }).click();
    await own.getByLabel("API key").waitFor();
    await own.reload();
    await own.getByLabel("API key").waitFor();
  });

  test("one button makes the first machine, and runs a first command in its terminal", async () => {
    await page.getByRole("button", { name: "Start the first sandbox" }).click();
    await page.getByRole("button", { name: "Run it" }).click();
    await shown(page, "That ran in a kernel of its own");
    await shown(page, "Linux");
  });

  test("a name is a text, and what is typed reaches the terminal", async () => {
    await page.getByRole("link", { name: "Sandboxes" }).first().click();
    await page.keyboard.press("n");
    await page.getByLabel("Name").fill(hostile);
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("heading", { name: hostile }).waitFor();
    await page.getByRole("button", { name: /^1: bash$/ }).waitFor();
    await page.locator(".xterm-helper-textarea").press("Enter");
    await page.keyboard.type("echo an answer is $((6 * 7))\n");
    await shown(page, "an answer is 42");
    assert.equal(await page.evaluate("window.isScripted"), undefined);
  });

  test("the list follows what other clients do", async () => {
    await page.getByRole("link", { name: "Sandboxes" }).first().click();
    const { id } = await dashboard.client.sandboxes.create({ alias: "made elsewhere" });
    await page.getByRole("link", { name: "made elsewhere" }).waitFor();
    await dashboard.client.sandboxes.kill(id);
    await page.getByRole("link", { name: "made elsewhere" }).waitFor({ state: "hidden" });
    assert.equal(await page.evaluate("window.isScripted"), undefined);
  });

  for (const theme of ["light", "dark"]) {
    for (const [width, height] of [
      [1280, 800],
      [360, 740],
    ] as const) {
      test(`axe finds nothing in the ${theme} theme at ${width} pixels`, async () => {
        const own = await dashboard.signedIn({ colorScheme: theme, viewport: { width, height } });
        assert.deepEqual(await violationsOf(own), []);
        assert.ok(
          await own.evaluate("document.documentElement.scrollWidth <= innerWidth"),
          "the page scrolls sideways",
        );
        await own.getByRole("button", { name: "New sandbox" }).click();
        await own.getByRole("dialog").waitFor();
        assert.deepEqual(await violationsOf(own), []);
        await own.keyboard.press("Escape");
        await own.getByRole("link", { name: "my first sandbox" }).click();
        await own.locator(".xterm-screen").waitFor();
        assert.deepEqual(await violationsOf(own), []);
        await own.context().close();
      });
    }
  }

  test("no page asked another host, broke its policy or failed", () => dashboard.assertNoOffence());
});
