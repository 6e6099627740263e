// A preload that writes the address of every module that the process loads to standard error, after "module ".
import { registerHooks } from "node:module";

registerHooks({
  load(url, context, next) {
    process.stderr.write(`module ${url}\n`);
    return next(url, context);
  },
});
