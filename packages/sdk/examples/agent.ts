import { Sandbox } from "@opensandbox/sdk";

await using sandbox = await Sandbox.create({ envs: { ANTHROPIC_API_KEY: "" /* yours */ } });
const agent = await sandbox.agents.start({ prompt: "Write a program that prints ten primes, and run it." });
for await (const { type, result, message } of agent.events) {
  if (type === "result") console.log(result);
  if (type === "error") console.log(message);
  if (type === "turn_complete") await agent.end();
}
