import { defineConfig } from "tsdown";

export default defineConfig({
  entry: { index: "src/index.ts" },
  format: "esm",
  platform: "neutral",
  // Node 20, and browsers of the same age.
  target: "es2022",
  dts: true,
  clean: false,
  // The wire is not published; the bundle contains its used parts.
  deps: { alwaysBundle: [/^@opensandbox\//], neverBundle: ["eventsource-parser", "ws", "zod"] },
  report: false,
  logLevel: "warn",
});
