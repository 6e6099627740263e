import { e2bClientTests } from "./e2b-client-tests.ts";
import { startWorld } from "./world.ts";

// The published client of E2B, unmodified, against real machines.
e2bClientTests("the published client of E2B", () => startWorld(), { home: "/home/user", isReal: true });
