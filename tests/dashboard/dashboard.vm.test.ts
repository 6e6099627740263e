import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { after, before, suite, test } from "node:test";
import { eventually } from "@opensandbox/wire/testing/eventually.ts";
import { skip, type Page } from "./browser.ts";
import { type DashboardWorld, startDashboardWorld } from "./dashboard-world.ts";

// The dashboard in a real browser, with a real machine: one story, one step a test.

/** A machine without KVM needs seconds for what a page shows at once, and minutes on a crowded host. */
const patience = { withinMs: 120_000, everyMs: 100 };

suite("the dashboard with a real machine", { skip }, () => {
  const stack = new AsyncDisposableStack();
  let dashboard: DashboardWorld;
  let page: Page;
  let id = "";

  before(async () => {
    dashboard = stack.use(await startDashboardWorld({}));
    page = await dashboard.signedIn();
  });
  after(() => stack.disposeAsync());

  const shown = (text: string): Promise<string> =>
    eventually(
      `the page shows ${text}`,
      async () => {
        const all = await page.evaluate<string>("document.body.innerText");
        return all.includes(text) ? all : undefined;
      },
      patience,
    );

  const type = async (line: string): Promise<void> => {
    await page.locator(".xterm-helper-textarea").press("Enter");
    await page.keyboard.type(`${line}\n`);
  };

  const open = (name: string): Promise<void> => page.getByRole("link", { name, exact: true }).click();

  test("creates a machine and answers in its terminal", async () => {
    await page.getByRole("button", { name: "New sandbox" }).click();
    await page.getByLabel("Name").fill("a real machine");
    await page.getByLabel("Image").selectOption("image minimal");
    await page.getByRole("button", { name: "Create" }).click();
    await page.getByRole("heading", { name: "a real machine" }).waitFor();
    [, id = ""] = /sandboxes\/([^/]+)/.exec(page.url()) ?? [];
    await type("echo the kernel is $(uname -s)");
    await shown("the kernel is Linux");
  });

  test("uploads a file and downloads the same bytes", async () => {
    await open("Files");
    const buffer = randomBytes(200_000);
    const name = `<img src=x onerror="window.isScripted=true">.bin`;
    await page.getByLabel("Files to upload").setInputFiles([{ name, mimeType: "application/octet-stream", buffer }]);
    await page.getByRole("button", { name: `Actions of ${name}` }).click();
    const [download] = await Promise.all([
      page.waitForEvent("download"),
      page.getByRole("menuitem", { name: "Download" }).click(),
    ]);
    assert.deepEqual(await readFile(await download.path()), buffer);
    assert.equal(await page.evaluate("window.isScripted"), undefined);
  });

  test("shows a refusal when it happens", async () => {
    await dashboard.client.network.set(id, { egress: { allow: ["198.51.100.1"] } });
    await open("Network");
    await shown("Nothing was refused");
    await dashboard.client.exec.run(id, {
      cmd: "timeout",
      args: ["2", "bash", "-c", "echo > /dev/tcp/198.51.100.7/81"],
    });
    await shown("198.51.100.7:81");
  });

  test("makes a checkpoint and a fork of it, which has the files", async () => {
    await open("Checkpoints");
    await page.getByRole("button", { name: "New checkpoint" }).click();
    await page.getByLabel("Name").fill("prepared");
    await page.getByRole("dialog").getByRole("button", { name: "Create" }).click();
    await page.getByRole("group", { name: "prepared" }).getByRole("button", { name: "Fork" }).click();
    await page.getByRole("heading", { name: /^sb-/ }).waitFor();
    const [, fork = ""] = /sandboxes\/([^/]+)/.exec(page.url()) ?? [];
    assert.notEqual(fork, id);
    await open("Files");
    await page.getByRole("button", { name: /^Actions of <img/ }).waitFor();
    await page.getByRole("button", { name: "More actions" }).click();
    await page.getByRole("menuitem", { name: /^Kill/ }).click();
    await page.getByRole("dialog").getByRole("button", { name: "Kill" }).click();
    await eventually(
      "the fork is deleted",
      async () => {
        const { status } = await dashboard.client.sandboxes.get(fork);
        return status === "stopped" ? true : undefined;
      },
      patience,
    );
  });

  test("hibernates and wakes it, and the shell is where it was", async () => {
    await page.goto(`${dashboard.url}/dashboard/sandboxes/${id}/terminal`);
    await type("word=remembered");
    await page.getByRole("button", { name: "Hibernate" }).click();
    await shown("The sandbox is hibernated");
    await page.getByRole("button", { name: "Wake", exact: true }).first().click();
    await type("echo the word is $word");
    await shown("the word is remembered");
  });

  test("signs out", async () => {
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("API key").waitFor();
    dashboard.assertNoOffence();
  });
});
