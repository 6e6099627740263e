import { once } from "node:events";
import { createReadStream } from "node:fs";
import { fileURLToPath } from "node:url";
import { errorFromWire, SandboxError } from "@opensandbox/wire/errors.ts";
import { readLines } from "#host/protocols/lines.ts";
import { type Helper, startHelper } from "#host/run-command.ts";
import { privilegedCommand } from "#images/privileged.ts";
import type { ImageConfig } from "../image-manifest.ts";
import type { UnpackReply, UnpackRequest } from "./messages.ts";
import type { UnpackLimits } from "./unpacker.ts";

const module = fileURLToPath(new URL("main.ts", import.meta.url));
const maxReplyBytes = 256 * 1024;
const keptErrorBytes = 2000;

/** Owners, modes and capabilities of files, and the change of the root: no device, no mount, no network. */
const rights = "-all,+chown,+dac_override,+fowner,+fsetid,+setfcap,+sys_chroot";

/** A file with a layer, or with files of this host in the same form. */
export type LayerFile = Omit<Extract<UnpackRequest, { kind: "layer" }>, "kind"> & { readonly file: string };

/** A process that unpacks an image, layer after layer. */
export class Unpacking implements AsyncDisposable {
  readonly #child: Helper;
  readonly #closed: Promise<unknown>;
  readonly #replies: UnpackReply[] = [];
  #waiting: (() => void) | undefined;
  #ended = false;
  #errors = "";

  /** `root` is the existing, empty directory that becomes the image. */
  static async start(root: string, limits: UnpackLimits, signal: AbortSignal): Promise<Unpacking> {
    const { argv, env } = await privilegedCommand([
      ...([
        "unshare",
        "--net",
        "--",
        "setpriv",
        "--no-new-privs",
        "--inh-caps=-all",
        `--bounding-set=${rights}`,
      ] as const),
      ...["--", process.execPath, "--disable-warning=ExperimentalWarning", "--max-old-space-size=512", module],
    ]);
    const unpacking = new Unpacking(startHelper(argv, { env, signal }));
    await unpacking.#send({ kind: "begin", root, ...limits });
    return unpacking;
  }

  private constructor(child: Helper) {
    this.#child = child;
    const wake = (): void => this.#waiting?.();
    const end = (): void => {
      this.#ended = true;
      wake();
    };
    // A process that has failed reads no more; its reply says why.
    child.stdin.on("error", () => undefined);
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      this.#errors = (this.#errors + text).slice(-keptErrorBytes);
    });
    const onLine = (line: string): void => {
      this.#replies.push(JSON.parse(line) as UnpackReply);
      wake();
    };
    readLines(child.stdout, maxReplyBytes, onLine, () => child.kill());
    child.once("error", (error) => {
      this.#errors += error.message;
      end();
    });
    this.#closed = new Promise((resolve) => child.once("close", () => resolve(end())));
  }

  /**
   * Unpacks one layer.
   * @throws `invalid_argument` for a layer that is refused, and then the process has ended
   */
  async layer({ file, ...request }: LayerFile): Promise<{ readonly entries: number; readonly bytes: number }> {
    await this.#send({ kind: "layer", ...request });
    for await (const part of createReadStream(file, { highWaterMark: 2 ** 18 })) {
      if (!(await this.#write(part as Buffer))) break;
    }
    return await this.#reply("layer");
  }

  /** Adds what a machine needs, and ends the process. */
  async finish(config: ImageConfig): Promise<void> {
    await this.#send({ kind: "finish", config });
    await this.#reply("finished");
    this.#child.stdin.end();
    await this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill();
    await this.#closed;
  }

  async #send(request: UnpackRequest): Promise<void> {
    await this.#write(Buffer.from(`${JSON.stringify(request)}\n`));
  }

  /** False once the process reads no more. */
  async #write(bytes: Buffer): Promise<boolean> {
    const { stdin } = this.#child;
    if (stdin.destroyed || this.#ended) return false;
    if (!stdin.write(bytes)) await Promise.race([once(stdin, "drain").catch(() => undefined), this.#closed]);
    return true;
  }

  async #reply<Kind extends UnpackReply["kind"]>(kind: Kind): Promise<Extract<UnpackReply, { kind: Kind }>> {
    while (this.#replies.length === 0 && !this.#ended) {
      await new Promise<void>((resolve) => (this.#waiting = resolve));
    }
    const reply = this.#replies.shift();
    if (reply?.kind === "failed") throw errorFromWire(reply.error);
    if (reply?.kind !== kind) {
      throw new SandboxError("unavailable", `the process that unpacks the image has ended: ${this.#errors.trim()}`);
    }
    return reply as Extract<UnpackReply, { kind: Kind }>;
  }
}
