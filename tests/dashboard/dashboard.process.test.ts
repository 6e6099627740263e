import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { gzipSync } from "node:zlib";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { lacksGenerator, skip, type Page } from "./browser.ts";
import { type DashboardWorld, startDashboardWorld, violationsOf } from "./dashboard-world.ts";

// The dashboard in a real browser, on a server with the fake hypervisor.

const hostile = `"><img src=x onerror="window.isScripted=true"><script>window.isScripted=true</script>`;

/** A crowded host needs much longer than a browser. */
const patience = { withinMs: 60_000, everyMs: 50 };

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

  const shown = (of: Page, text: string): Promise<string> =>
    eventually(
      `the page shows ${text}`,
      async () => {
        const all = await of.evaluate<string>("document.body.innerText");
        return all.includes(text) ? all : undefined;
      },
      patience,
    );

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
    await own.goto(dashboard.url);
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
    await page.getByRole("heading", { name: "Sandboxes", exact: true }).waitFor();
    await page.keyboard.press("n");
    await page.getByRole("dialog", { name: "New sandbox" }).waitFor();
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

  test("what a sandbox writes is shown as text", async () => {
    const [first] = await dashboard.client.sandboxes.list();
    const id = first?.id ?? "";
    await dashboard.client.exec.run(id, { cmd: "printf", args: ["%s\\n", hostile] });
    for (const view of ["log", "timeline", "network", "checkpoints"]) {
      await page.goto(`${dashboard.url}/dashboard/sandboxes/${id}/${view}`);
      await page.getByRole("link", { name: "Timeline" }).waitFor();
      if (view === "log") await shown(page, hostile);
    }
    assert.equal(await page.evaluate("window.isScripted"), undefined);
  });

  test("a text is edited in the page, and saved as it was typed", async () => {
    const [first] = await dashboard.client.sandboxes.list();
    const id = first?.id ?? "";
    const { stdout } = await dashboard.client.exec.run(id, { cmd: "pwd" });
    const directory = stdout.trim();
    await dashboard.client.files.write(id, `${directory}/edited.py`, "print(1)\n");
    await page.goto(`${dashboard.url}/dashboard/sandboxes/${id}/files`);
    await page.getByRole("navigation", { name: "Directory" }).getByRole("button", { name: "/", exact: true }).click();
    for (const part of directory.split("/").slice(1)) {
      await page.getByRole("button", { name: part, exact: true }).last().click();
    }
    await page.getByRole("button", { name: "edited.py", exact: true }).click();
    await page.getByLabel("Content of edited.py").click();
    assert.deepEqual(await violationsOf(page), []);
    await page.keyboard.press("Control+End");
    await page.keyboard.type("print(2) # more");
    await page.getByRole("button", { name: "Save" }).click();
    await shown(page, "edited.py is saved");
    const saved = await dashboard.client.exec.run(id, { cmd: "cat", args: ["edited.py"] });
    assert.equal(saved.stdout, "print(1)\nprint(2) # more");
  });

  test("a new key is shown once, and a revoked one stays in the list", async () => {
    // This server has a key of its own alone, so the page talks to these answers in place of it.
    const key = `osb_${"0a".repeat(32)}`;
    const dated = { prefix: "osb_0a0a0a0a", createdAt: new Date().toISOString(), lastUsedAt: new Date().toISOString() };
    const first = { ...dated, id: "first", name: "first", scopes: ["admin:write"], current: true };
    let all: object[] = [first];
    const asked: unknown[] = [];
    const path = /\/api\/keys/;
    await page.route(path, async (route) => {
      const request = route.request();
      const made = { ...dated, id: "made", name: hostile, scopes: ["images:read"], current: false };
      if (request.method() === "GET") return await route.fulfill({ json: all });
      if (request.method() === "POST") asked.push(request.postDataJSON());
      const changed = request.method() === "POST" ? made : { ...made, revokedAt: new Date().toISOString() };
      all = [first, changed];
      return await route.fulfill({ json: { ...changed, key } });
    });
    await page.goto(`${dashboard.url}/dashboard/keys`);
    await page.getByRole("button", { name: "New key" }).click();
    await page.getByLabel("Name").fill(hostile);
    await page.getByLabel("images:read").click();
    await page.getByLabel("sandboxes:write").click();
    await page.getByRole("button", { name: "Create" }).click();
    const dialog = page.getByRole("dialog", { name: "The new key" });
    assert.equal(await dialog.locator("code").textContent(), key);
    assert.deepEqual(asked, [{ name: hostile, scopes: ["images:read"], expiresInDays: 90 }]);
    assert.deepEqual(await violationsOf(page), []);
    await dialog.getByRole("button", { name: "Close" }).click();
    await page.getByRole("button", { name: `Revoke ${hostile}` }).waitFor();
    const shownThen = await page.evaluate<string>("document.documentElement.outerHTML");
    assert.ok(!shownThen.includes(key), "the page does not keep the key");
    assert.deepEqual(await violationsOf(page), []);

    await page.getByRole("button", { name: `Revoke ${hostile}` }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Revoke" }).click();
    await page.getByRole("cell", { name: "revoked" }).waitFor();
    assert.equal(await page.getByRole("button", { name: `Revoke ${hostile}` }).count(), 0);
    assert.equal(await page.evaluate("window.isScripted"), undefined);
    await page.unroute(path);
  });

  test("a lost connection is shown, and the page goes on when it is back", async () => {
    await page.goto(`${dashboard.url}/dashboard/sandboxes`);
    await page.getByRole("link", { name: "my first sandbox" }).click();
    await page.locator(".xterm-helper-textarea").press("Enter");
    await page.keyboard.type("echo before the cut: $((40 + 2))\n");
    await shown(page, "before the cut: 42");
    dashboard.cable.cut();
    await shown(page, "The server does not answer");
    await shown(page, "The connection is lost");
    const { id } = await dashboard.client.sandboxes.create({ alias: "made during the cut" });
    dashboard.cable.mend();
    await page.getByText("The server does not answer").waitFor({ state: "hidden" });
    await page.getByText("The connection is lost").waitFor({ state: "hidden" });
    await page.locator(".xterm-helper-textarea").press("Enter");
    await page.keyboard.type("echo after the cut: $((40 + 3))\n");
    const all = await shown(page, "after the cut: 43");
    assert.ok(all.includes("before the cut: 42"), all);
    await page.getByRole("link", { name: "Sandboxes" }).first().click();
    await page.getByRole("link", { name: "made during the cut" }).waitFor();
    await dashboard.client.sandboxes.kill(id);
  });

  test("of ten thousand sandboxes, only the rows in view are in the page", async (context) => {
    const own = await dashboard.open();
    const [example] = (await (
      await fetch(`${dashboard.world.url}/api/sandboxes`, { headers: { "x-api-key": dashboard.world.apiKey } })
    ).json()) as object[];
    const all = Array.from({ length: 10_000 }, (_, index) => ({
      ...example,
      ...{ sandboxID: `sb-${String(index).padStart(16, "0")}`, alias: `number ${index}`, status: "hibernated" },
    }));
    await own.route(/\/api\/sandboxes\?/, async (route) => {
      const after = new URL(route.request().url()).searchParams.get("after");
      const start = after === null ? 0 : Number(after.slice(3)) + 1;
      await route.fulfill({ json: all.slice(start, start + 1000) });
    });
    const link = new URL(dashboard.world.server.createSignInLink?.() ?? "");
    await own.goto(dashboard.url + link.pathname + link.hash);
    await shown(own, "0 of 10,000 running");
    const rows = await own.getByRole("row").count();
    assert.ok(rows < 60, `${rows} rows`);
    await own.evaluate("scrollTo(0, document.body.scrollHeight)");
    await own.getByRole("link", { name: "number 9999", exact: true }).waitFor();
    await own.getByLabel("Filter", { exact: true }).fill("number 77");
    await own.getByRole("link", { name: "number 7700", exact: true }).waitFor();
    // A figure for people: a host that is busy proves nothing.
    const milliseconds = await own.evaluate<number>(`new Promise((resolve) => {
      const began = performance.now();
      document.querySelector("[aria-label='Choose all']").click();
      requestAnimationFrame(() => setTimeout(() => resolve(performance.now() - began)));
    })`);
    context.diagnostic(`choosing the rows that match took ${Math.round(milliseconds)} ms`);
    await shown(own, "111 chosen");
    await own.context().close();
  });

  const places = [
    ...["", "/images", "/ready-machines", "/workers", "/secrets", "/webhooks", "/keys", "/usage", "/audit"],
    ...["files", "log", "checkpoints", "network", "sessions", "metrics", "timeline", "settings", "terminal"].map(
      (view) => `/sandboxes/ID/${view}`,
    ),
  ];
  for (const [theme, width, height] of [
    ["light", 1280, 800],
    ["dark", 360, 740],
  ] as const) {
    test(`axe finds nothing in any page in the ${theme} theme at ${width} pixels`, async () => {
      const [first] = await dashboard.client.sandboxes.list();
      const own = await dashboard.signedIn({ colorScheme: theme, viewport: { width, height } });
      await own.getByRole("button", { name: "New sandbox" }).click();
      await own.getByRole("dialog").waitFor();
      assert.deepEqual(await violationsOf(own), []);
      for (const place of places) {
        await own.goto(`${dashboard.url}/dashboard${place.replace("ID", first?.id ?? "")}`);
        await own.getByRole("heading").first().waitFor();
        await eventually(
          `${place} is loaded`,
          async () => {
            const text = await own.evaluate<string>("document.body.innerText");
            return /(Reading|Loading|Asking|Adding)/.test(text) ? undefined : true;
          },
          patience,
        );
        assert.deepEqual(await violationsOf(own), [], place);
        const beyond = await own.evaluate("document.documentElement.scrollWidth - innerWidth");
        assert.equal(beyond, 0, `${place} scrolls sideways`);
      }
      await own.goto(`${dashboard.url}/dashboard`);
      await own.getByRole("link", { name: "my first sandbox" }).waitFor();
      for (const each of [360, 759, 1000, 1061, 1100, 1280, 3840]) {
        await own.setViewportSize({ width: each, height });
        const cut = await own.evaluate<readonly string[]>(`[...document.querySelectorAll("[role=row] > *")]
          .filter((cell) => cell.getBoundingClientRect().right > cell.closest("[role=table]").getBoundingClientRect().right)
          .map((cell) => cell.textContent)`);
        assert.deepEqual(cut, [], `the list is cut at ${each} pixels`);
      }
      await own.context().close();
    });
  }

  test("the documentation is built, read and searched", { skip: lacksGenerator }, async () => {
    const own = await dashboard.open({ colorScheme: "dark" });
    // A checkout builds it now; the page loads itself again meanwhile.
    await own.goto(`${dashboard.url}/docs`);
    await own.getByRole("heading", { name: /^OpenSandbox/ }).waitFor();
    for (const path of ["", "/guides/concepts", "/guides/agents-typescript", "/ssh"]) {
      await own.goto(`${dashboard.url}/docs${path}`);
      assert.deepEqual(await violationsOf(own), [], path);
    }
    await own.getByRole("button", { name: "Search" }).first().click();
    await own.getByRole("searchbox").fill("hibernated sandbox has no process");
    await own.getByRole("option", { name: /Concepts.*Hibernation/ }).click();
    await own.getByRole("heading", { name: /^Hibernation/ }).waitFor();
    await own.setViewportSize({ width: 360, height: 740 });
    assert.equal(await own.evaluate("document.documentElement.scrollWidth - innerWidth"), 0, "it scrolls sideways");
    await own.goto(`${dashboard.url}/docs/guides/none`);
    await shown(own, "404");
    await own.goto(`${dashboard.url}/docs/api`);
    await own.locator(".swagger-ui .info").waitFor();
    await own.context().close();
  });

  test("no page asked another host, broke its policy or failed", () => dashboard.assertNoOffence());
});
