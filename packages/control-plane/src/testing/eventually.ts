export { eventually } from "@opensandbox/wire/testing/eventually.ts";
