import { sessionTests } from "../e2e/session-tests.ts";
import { startFleetWorld } from "./fleet-world.ts";

// The promises of a server with a worker of its own also hold over a connection between two processes.
sessionTests("sessions and files with the fake hypervisor, through a server to a worker", {
  env: {},
  streamedBytes: 50_000_000,
  growthBytes: 150 * 2 ** 20,
  resultBytes: 20_000_000,
  fileBytes: 50_000_001,
  sandboxes: 4,
  async spawn(directory, env) {
    const world = await startFleetWorld({ workers: 1, directory, env });
    const { url, apiKey, server } = world;
    return { url, apiKey, process: server.process, [Symbol.asyncDispose]: () => world[Symbol.asyncDispose]() };
  },
});
