import { createHash } from "node:crypto";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import { openText, sealText } from "#database/sealed-text.ts";

/** Why no secret can be stored or used. */
const notConfigured = "secret stores are not configured: this server has no master key";

/**
 * The keys that encrypt secrets in the database, which are kept outside it. The first one encrypts; all of them decrypt,
 * so that a new key can come before the earlier ones.
 */
export class MasterKeys {
  readonly #keys: readonly { readonly id: string; readonly key: string }[];

  /** @param keys 256 bits each, hexadecimal. Empty: secrets are refused */
  constructor(keys: readonly string[]) {
    // The id tells which key a text needs, and says nothing about the key.
    this.#keys = keys.map((key) => ({ id: createHash("sha256").update(key, "hex").digest("hex").slice(0, 8), key }));
  }

  /** @throws `unavailable` when the server has no master key */
  require(): void {
    this.#first();
  }

  /**
   * Encrypts a text for a column.
   * @param owner the id of its row: the text cannot be decrypted in another row
   */
  seal(text: string, owner: string): string {
    const { id, key } = this.#first();
    return `${id}:${sealText(text, key, owner)}`;
  }

  /** @throws `unavailable` when the text needs a key that the server does not have */
  open(sealed: string, owner: string): string {
    const [id = "", ...rest] = sealed.split(":");
    const known = this.#keys.find((key) => key.id === id);
    if (known === undefined) {
      if (this.#keys.length === 0) throw new SandboxError("unavailable", notConfigured);
      const message = `a secret is encrypted with the master key ${id}, which this server does not have: add it to OPENSANDBOX_MASTER_KEY or to the file master-key`;
      throw new SandboxError("unavailable", message);
    }
    try {
      return openText(rest.join(":"), known.key, owner);
    } catch (cause) {
      throw new SandboxError("internal", `the encrypted text of ${owner} was changed`, { cause });
    }
  }

  /** Whether the text is encrypted with the first key. */
  isCurrent(sealed: string): boolean {
    return sealed.startsWith(`${this.#first().id}:`);
  }

  /** Whether this server has the key that the text needs. */
  canOpen(sealed: string): boolean {
    return this.#keys.some(({ id }) => sealed.startsWith(`${id}:`));
  }

  get isEmpty(): boolean {
    return this.#keys.length === 0;
  }

  #first(): { readonly id: string; readonly key: string } {
    const [first] = this.#keys;
    if (first === undefined) throw new SandboxError("unavailable", notConfigured);
    return first;
  }
}
