import { createCompute, defineProvider } from "@computesdk/provider";
import type { Client, Sandbox } from "./client.ts";

/** A sandbox as ComputeSDK knows it, as far as its benchmark uses one. */
export interface ComputeSandbox {
  readonly sandboxId: string;
  runCommand(command: string): Promise<{ readonly exitCode: number; readonly stdout: string; readonly stderr: string }>;
  getInstance(): Sandbox;
  destroy(): Promise<void>;
}

/** A server behind ComputeSDK's interface, by an adapter of the kind that the public benchmark uses. */
export function computeOf(client: Client): { create(): Promise<ComputeSandbox> } {
  const found = async (_config: object, id: string): Promise<{ sandbox: Sandbox; sandboxId: string }> => ({
    sandbox: await client.connect(id),
    sandboxId: id,
  });
  const provider = defineProvider<Sandbox, object>({
    name: "opensandbox",
    methods: {
      sandbox: {
        async create() {
          const sandbox = await client.create();
          return { sandbox, sandboxId: sandbox.sandboxId };
        },
        getById: found,
        async list(config) {
          const reply = await client.fetch("GET", "/api/sandboxes");
          const sandboxes = (await reply.json()) as readonly { readonly sandboxID: string }[];
          return await Promise.all(sandboxes.map(({ sandboxID }) => found(config, sandboxID)));
        },
        async destroy(_config, id) {
          await client.fetch("DELETE", `/api/sandboxes/${id}`);
        },
        async runCommand(sandbox, command) {
          const since = performance.now();
          const result = await sandbox.exec.run(command);
          return { ...result, durationMs: performance.now() - since };
        },
        async getInfo(sandbox) {
          return {
            id: sandbox.sandboxId,
            provider: "opensandbox",
            status: (await sandbox.isRunning()) ? "running" : "stopped",
            createdAt: new Date(),
            timeout: 0,
          };
        },
        async getUrl(sandbox, { port, protocol = "http" }) {
          return `${protocol}://${sandbox.getPreviewDomain(port)}`;
        },
      },
    },
  });
  const compute = createCompute<Sandbox>({ defaultProvider: provider({}) });
  return { create: async () => await compute.sandbox.create() };
}
