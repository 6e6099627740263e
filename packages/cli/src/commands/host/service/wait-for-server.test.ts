import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { type Argv, System } from "../system.ts";
import { waitForServer } from "./wait-for-server.ts";

/** A host whose systemd has restarted the service so often, at each question in turn. */
function hostWith(restarts: readonly number[]): System {
  let asked = 0;
  const answer = ([program]: Argv): string => {
    if (program === "journalctl") return "starting\nport 8080 is in use\n";
    const count = restarts[Math.min(asked, restarts.length - 1)];
    asked += 1;
    return `${count}\n`;
  };
  return new System({
    runner: async (argv) => await Promise.resolve({ code: 0, stdout: answer(argv), stderr: "" }),
  });
}

suite("the wait for the server of a service", () => {
  const unitName = "opensandbox.service";
  // The deadline begins with a test: the process may load all other test files first.
  const deadline = (): AbortSignal => AbortSignal.timeout(20_000);

  test("ends when the server listens, also after it has failed once", async () => {
    let looks = 0;
    const find = async (): Promise<string | undefined> => {
      looks += 1;
      return await Promise.resolve(looks < 4 ? undefined : "http://127.0.0.1:8080");
    };
    const system = hostWith([7, 7, 8, 8]);
    assert.equal(await waitForServer({ system, unitName, find, pollMs: 1 }, deadline()), "http://127.0.0.1:8080");
  });

  test("ends with the end of the log when the server ends again and again", async () => {
    const find = async (): Promise<undefined> => await Promise.resolve(undefined);
    const system = hostWith([7, 7, 8, 9, 10]);
    await assert.rejects(waitForServer({ system, unitName, find, pollMs: 1 }, deadline()), {
      code: "unavailable",
      message: /^the server ended 3 times in a row\. .*Its log ends with:\nstarting\nport 8080 is in use$/s,
    });
  });
});
