import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { connect, type Client } from "@opensandbox/sdk";
import { startWorld, type World } from "../e2e/world.ts";
import { type Cable, startCable } from "../fleet/cable.ts";
import { axeScript, launchBrowser, type Browser, type Page } from "./browser.ts";

/** The longest wait for something to appear. A fake machine starts within a second; a real one needs minutes without KVM. */
const shownWithinMs = 120_000;

/** What a page did that it must not do. */
interface Offences {
  /** Requests to any other origin. */
  readonly foreign: string[];
  /** What the page's policy refused. */
  readonly refused: string[];
  /** Exceptions that nothing caught. */
  readonly errors: string[];
}

/** A server with its dashboard in a browser. */
export interface DashboardWorld extends AsyncDisposable {
  readonly world: World;
  /** The address that the browser uses. */
  readonly url: string;
  /** Between the browser and the server. */
  readonly cable: Cable;
  readonly client: Client;
  readonly browser: Browser;
  /** A page in a browser profile of its own, whose offences are recorded. */
  open(options?: object): Promise<Page>;
  /** A page that is signed in by a link. */
  signedIn(options?: object): Promise<Page>;
  /** Fails if any page has done what it must not do. */
  assertNoOffence(): void;
}

export async function startDashboardWorld(env: Readonly<Record<string, string>>): Promise<DashboardWorld> {
  await using undo = new AsyncDisposableStack();
  const world = undo.use(await startWorld(env));
  const cable = undo.use(await startCable(world.url));
  const url = cable.url.replace("https:", "http:");
  const browser = undo.use(await launchBrowser());
  const offences: Offences = { foreign: [], refused: [], errors: [] };

  const open: DashboardWorld["open"] = async (options = {}) => {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    const page = await context.newPage();
    page.setDefaultTimeout(shownWithinMs);
    page.on("request", (request) => {
      const { protocol, host } = new URL(request.url());
      const isOwn = ["data:", "blob:"].includes(protocol) || host === new URL(url).host;
      if (!isOwn) offences.foreign.push(request.url());
    });
    page.on("pageerror", (error) => offences.errors.push(error.message));
    page.on("console", (message) => {
      if (message.text().startsWith("policy: ")) offences.refused.push(message.text());
    });
    await page.addInitScript(`addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI, sourceFile }) =>
      console.log("policy: " + violatedDirective + " " + blockedURI + " " + sourceFile))`);
    return page;
  };
  const owned = undo.move();
  return {
    world,
    url,
    cable,
    client: connect({ url: world.url, apiKey: world.apiKey }),
    browser,
    open,
    async signedIn(options) {
      const page = await open(options);
      const link = new URL(world.server.createSignInLink?.() ?? assert.fail("the server has no dashboard"));
      await page.goto(url + link.pathname + link.hash);
      await page.getByRole("heading", { name: "Sandboxes", exact: true }).waitFor();
      return page;
    },
    assertNoOffence: () => assert.deepEqual(offences, { foreign: [], refused: [], errors: [] }),
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The rules of WCAG 2.2 AA that a page breaks, as axe finds them. */
export async function violationsOf(page: Page): Promise<readonly string[]> {
  // Animations end first: axe measures contrasts of what is shown at that moment.
  await page.evaluate(`Promise.allSettled(document.getAnimations()
    .filter((each) => each.effect.getComputedTiming().iterations !== Infinity).map((each) => each.finished))`);
  await page.evaluate(await readFile(axeScript, "utf8"));
  const found = await page.evaluate<readonly string[]>(`axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }).then(({ violations }) => violations.map(({ id, nodes }) => id + ": " + nodes.map(({ html, failureSummary }) => html.slice(0, 160) + " " + failureSummary).join(" | ")))`);
  return found;
}
