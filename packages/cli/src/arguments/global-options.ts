import { flag, text } from "./inputs.ts";

/** What every command understands, also before its name. */
export const globalOptions = {
  json: flag("print results, and errors, as JSON"),
  apiUrl: text("URL", "ask this server (OPENSANDBOX_API_URL)"),
  apiKey: text("KEY", "the key for it (OPENSANDBOX_API_KEY)"),
  help: flag("show this help", "h"),
};

export interface Globals {
  readonly json: boolean;
  readonly apiUrl?: string | undefined;
  readonly apiKey?: string | undefined;
  readonly help: boolean;
}
