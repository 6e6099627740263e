import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";

// The parts of Playwright that the tests use. Only ./test installs it, so its own types may be missing.

export interface Locator {
  click(options?: { readonly timeout?: number }): Promise<void>;
  fill(text: string): Promise<void>;
  press(key: string): Promise<void>;
  count(): Promise<number>;
  first(): Locator;
  last(): Locator;
  locator(selector: string): Locator;
  getByRole(role: string, options?: { readonly name?: string | RegExp; readonly exact?: boolean }): Locator;
  getByText(text: string | RegExp): Locator;
  textContent(): Promise<string | null>;
  inputValue(): Promise<string>;
  setInputFiles(files: readonly { name: string; mimeType: string; buffer: Buffer }[]): Promise<void>;
  selectOption(value: string): Promise<unknown>;
  waitFor(options?: { readonly state?: "visible" | "hidden"; readonly timeout?: number }): Promise<void>;
}

interface Request {
  url(): string;
  method(): string;
  postDataJSON(): unknown;
}

interface Route {
  request(): Request;
  fulfill(reply: { readonly json: unknown }): Promise<void>;
}

interface Message {
  type(): string;
  text(): string;
}

interface Download {
  path(): Promise<string>;
  suggestedFilename(): string;
}

export interface Page {
  readonly keyboard: { type(text: string): Promise<void>; press(key: string): Promise<void> };
  goto(url: string): Promise<unknown>;
  url(): string;
  reload(): Promise<unknown>;
  getByRole: Locator["getByRole"];
  getByText: Locator["getByText"];
  getByLabel(text: string | RegExp, options?: { readonly exact?: boolean }): Locator;
  locator(selector: string): Locator;
  evaluate<Result>(script: string): Promise<Result>;
  addInitScript(script: string): Promise<unknown>;
  waitForEvent(event: "download"): Promise<Download>;
  waitForURL(url: RegExp): Promise<void>;
  setViewportSize(size: { readonly width: number; readonly height: number }): Promise<void>;
  screenshot(options: { readonly path: string; readonly fullPage?: boolean }): Promise<unknown>;
  unroute(url: RegExp): Promise<void>;
  route(url: RegExp, handle: (route: Route) => Promise<void>): Promise<void>;
  on(event: "request", listener: (request: Request) => void): void;
  on(event: "console", listener: (message: Message) => void): void;
  on(event: "pageerror", listener: (error: Error) => void): void;
  setDefaultTimeout(milliseconds: number): void;
  readonly context: () => BrowserContext;
}

interface BrowserContext {
  setOffline(offline: boolean): Promise<void>;
  cookies(): Promise<readonly { readonly name: string; readonly httpOnly: boolean; readonly sameSite: string }[]>;
  newPage(): Promise<Page>;
  close(): Promise<void>;
}

export interface Browser {
  newContext(options?: object): Promise<BrowserContext>;
  close(): Promise<void>;
}

const modules = join(import.meta.dirname, "../../tools/browser/node_modules");
const program = (process.env["PATH"] ?? "")
  .split(delimiter)
  .map((directory) => join(directory, "chromium"))
  .find((path) => existsSync(path));

/** Why the tests in a browser cannot run here; false where they can. */
export const skip =
  program === undefined
    ? "there is no chromium: ./test installs it as root"
    : existsSync(join(modules, "playwright-core")) && existsSync(join(modules, "axe-core"))
      ? false
      : "the packages of tools/browser are not installed: ./test installs them";

/** Chromium without a window. */
export async function launchBrowser(): Promise<Browser & AsyncDisposable> {
  const { chromium } = createRequire(join(modules, "x.js"))("playwright-core") as {
    readonly chromium: { launch(options: object): Promise<Browser> };
  };
  // Chromium's own sandbox needs a user other than root.
  const args = process.getuid?.() === 0 ? ["--no-sandbox"] : [];
  const browser = await chromium.launch({ executablePath: program, args, timeout: 60_000 });
  return Object.assign(browser, { [Symbol.asyncDispose]: () => browser.close() });
}

/** The script of axe, which finds what keeps people from using a page. */
export const axeScript = join(modules, "axe-core/axe.min.js");

/** Why the documentation site cannot be built here; false where it can. */
export const lacksGenerator = existsSync(join(modules, "../../documentation/node_modules/vitepress"))
  ? false
  : "the packages of tools/documentation are not installed: ./test installs them";
