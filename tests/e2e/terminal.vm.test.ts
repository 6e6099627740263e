import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Sandbox } from "@opencomputer/sdk";
import { Screen } from "./screen.ts";
import { startWorld, type World } from "./world.ts";

// Programs that draw on the whole screen, as a person sees them.
suite("full-screen programs in a terminal", () => {
  let world: World;
  let sandbox: Sandbox;
  const size = { columns: 70, rows: 20 };

  before(async () => {
    world = await startWorld({ OPENSANDBOX_READY_MACHINES: "0" });
    sandbox = await Sandbox.create({ template: "base", apiUrl: world.url, apiKey: world.apiKey });
  });
  after(async () => {
    await world?.[Symbol.asyncDispose]();
  });

  const path = (rest: string): string => `${world.url}/api/sandboxes/${sandbox.sandboxId}/pty${rest}`;

  async function post(rest: string, body: object): Promise<Response> {
    return await fetch(path(rest), {
      method: "POST",
      headers: { "X-API-Key": world.apiKey },
      body: JSON.stringify(body),
    });
  }

  async function openShell(): Promise<string> {
    const response = await post("", {
      cols: size.columns,
      rows: size.rows,
      envs: { PS1: "ready$ " },
      shell: "/bin/sh",
    });
    return ((await response.json()) as { sessionID: string }).sessionID;
  }

  async function attach(session: string): Promise<Screen> {
    const screen = new Screen(path(`/${session}?api_key=${world.apiKey}`).replace("http", "ws"), size);
    await screen.opened();
    return screen;
  }

  async function resize(session: string, screen: Screen, to: typeof size): Promise<void> {
    screen.resize(to);
    assert.equal((await post(`/${session}/resize`, { cols: to.columns, rows: to.rows })).status, 200);
  }

  const isPrompt = (lines: readonly string[]): boolean => lines.some((line) => line === "ready$");

  test("vim: typing, moving, resizing, saving", async () => {
    const session = await openShell();
    const screen = await attach(session);
    await screen.shows(isPrompt);
    screen.type("vim note.txt\r");
    await screen.shows((lines) => lines[0] === "" && lines[1] === "~" && lines[17] === "~");
    screen.type("ifirst lïne 中文\rsecond line\u001bggO");
    screen.type("above\u001b");
    await screen.shows((lines) => lines.slice(0, 4).join("|") === "above|first lïne 中文|second line|~");
    assert.deepEqual(screen.cursor, { column: 4, row: 0 });
    await resize(session, screen, { columns: 40, rows: 10 });
    await screen.shows((lines) => lines[2] === "second line" && lines[8] === "~" && lines.length === 10);
    screen.type(":wq\r");
    await screen.shows((lines) => lines.some((line) => line.includes("ready$")));
    assert.equal(await sandbox.files.read("note.txt"), "above\nfirst lïne 中文\nsecond line\n");
    screen.disconnect();
  });

  test("less: paging, searching, and the previous screen after it", async () => {
    await sandbox.files.write("numbers", Array.from({ length: 500 }, (_, index) => `line ${index + 1}\n`).join(""));
    const screen = await attach(await openShell());
    await screen.shows(isPrompt);
    screen.type("less numbers\r");
    await screen.shows((lines) => lines[0] === "line 1" && lines[18] === "line 19");
    screen.type(" ");
    await screen.shows((lines) => lines[0] === "line 20");
    screen.type("/line 300\r");
    await screen.shows((lines) => lines[0] === "line 300");
    screen.type("G");
    await screen.shows((lines) => lines[18] === "line 500");
    screen.type("q");
    await screen.shows((lines) => lines[0] === "ready$ less numbers" && lines[1] === "ready$");
    screen.disconnect();
  });

  test("top: processes, a redraw by a key, resizing, and the prompt after it", async () => {
    const session = await openShell();
    const screen = await attach(session);
    await screen.shows(isPrompt);
    screen.type("top -d 600\r");
    const isTable = (line = ""): boolean => /^ +PID USER /.test(line);
    await screen.shows((lines) => lines[0]?.startsWith("top - ") === true && isTable(lines[6]));
    assert.ok(screen.lines.slice(7).some((line) => / sandbox /.test(line)));
    // The lines without top's first one.
    screen.type("l");
    await screen.shows((lines) => lines[0]?.startsWith("Tasks: ") === true && isTable(lines[5]));
    await resize(session, screen, { columns: 100, rows: 12 });
    // The screen has room for the names of the processes.
    await screen.shows((lines) => lines.length === 12 && lines[5]?.endsWith("COMMAND") === true);
    screen.type("q");
    await screen.shows((lines) => lines.some((line) => line === "ready$"));
    screen.disconnect();
  });

  test("htop: meters, processes, their tree, resizing, and the prompt after it", async () => {
    const session = await openShell();
    const screen = await attach(session);
    await screen.shows(isPrompt);
    // htop's longest delay, in tenths of a second.
    screen.type("htop -d 100\r");
    const isBar = (line = ""): boolean => /^F1Help +F2Setup/.test(line);
    await screen.shows((lines) => lines.some((line) => /^ +PID.USER /.test(line)) && isBar(lines[19]));
    assert.ok(screen.lines.some((line) => /\bMem\[/.test(line)));
    assert.ok(screen.lines.some((line) => /^ +\d+ sandbox /.test(line)));
    assert.match(screen.lines[19] ?? "", /F5Tree/);
    screen.type("t");
    await screen.shows((lines) => /F5List/.test(lines[19] ?? "") && lines.some((line) => /[├└`]─/.test(line)));
    await resize(session, screen, { columns: 100, rows: 12 });
    await screen.shows((lines) => lines.length === 12 && isBar(lines[11]) && /F10Quit/.test(lines[11] ?? ""));
    screen.type("q");
    await screen.shows((lines) => lines.some((line) => line === "ready$"));
    screen.disconnect();
  });

  test("tmux draws two panes, and the same screen after a reattach", async () => {
    const session = await openShell();
    const screen = await attach(session);
    await screen.shows(isPrompt);
    screen.type(
      "PS1='pane$ ' tmux -u new-session 'sh' \\; split-window -h 'echo right; exec cat' \\; select-pane -L\r",
    );
    await screen.shows((lines) => /^[$#] +│right$/.test(lines[0] ?? ""));
    screen.type("echo left ☃\r");
    // The text includes the prompt, because the output after it is compared.
    await screen.shows(
      (lines) => lines[1]?.startsWith("left ☃") === true && lines[1].includes("│") && /^[$#] +│/.test(lines[2] ?? ""),
    );
    const before = screen.lines;
    screen.disconnect();
    const again = await attach(session);
    // The last line has a clock.
    await again.shows((lines) => lines.slice(0, -1).join("\n") === before.slice(0, -1).join("\n"));
    again.type("exit\r");
    await again.shows((lines) => lines[0]?.startsWith("right") === true);
    again.type("\u0004");
    await again.shows((lines) => lines.some((line) => line === "ready$"));
    again.disconnect();
  });
});
