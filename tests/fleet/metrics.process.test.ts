import assert from "node:assert/strict";
import { test } from "node:test";
import { startFleetWorld } from "./fleet-world.ts";

test("a server and a worker serve their metrics in Prometheus's format", async () => {
  const log: string[] = [];
  await using world = await startFleetWorld({
    workers: 1,
    env: { OPENSANDBOX_METRICS_PORT: "0" },
    onLog: (line) => log.push(line),
  });
  const created = await world.call("POST", "/sandboxes", { templateID: "minimal", timeout: 0 });
  assert.equal(created.status, 201, JSON.stringify(created.reply));
  const [member] = await world.report();
  const scrape = async (node: string): Promise<string> => {
    const line = log.find((each) => each.startsWith(`${node} `) && each.includes("metrics are served"));
    const [url] = /http:\/\/[^"]+\/metrics/.exec(line ?? "") ?? assert.fail(log.join("\n"));
    const response = await fetch(url);
    assert.equal(response.status, 200);
    assert.match(response.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    const text = await response.text();
    for (const each of text.trimEnd().split("\n")) {
      assert.match(each, /^(# (HELP|TYPE) [a-z0-9_]+ .+|[a-z0-9_]+(\{([a-z]+="[^"]*",?)*\})? [-+0-9.e]+)$/);
    }
    return text;
  };
  const server = await scrape("server");
  assert.match(server, /^opensandbox_sandboxes\{state="running"\} 1$/m);
  assert.match(server, new RegExp(`^opensandbox_worker_up\\{worker="${member!.id}"\\} 1$`, "m"));
  assert.match(
    server,
    /^opensandbox_http_request_duration_seconds_count\{method="POST",route="\/api\/sandboxes",status="201"\} 1$/m,
  );
  assert.match(server, /^process_resident_memory_bytes \d+$/m);
  const worker = await scrape("worker-0");
  assert.match(worker, /^opensandbox_machines 1$/m);
  assert.match(worker, /^opensandbox_host_disk_free_ratio 0\.\d+$/m);
});
