import { flag, text } from "./inputs.ts";

/** Options of every command. They may also stand before the command's name. */
export const globalOptions = {
  json: flag("print results and errors as JSON"),
  apiUrl: text("URL", "the server's address (OPENSANDBOX_API_URL)"),
  apiKey: text("KEY", "the API key (OPENSANDBOX_API_KEY)"),
  help: flag("show this help", "h"),
};

export interface Globals {
  readonly json: boolean;
  readonly apiUrl?: string | undefined;
  readonly apiKey?: string | undefined;
  readonly help: boolean;
}
