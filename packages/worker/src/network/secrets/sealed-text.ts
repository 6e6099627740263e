/** A secret as it is put into requests. */
export interface Injected {
  /** The name of its variable, for the log. */
  readonly name: string;
  /** The text that a guest has in place of the value. */
  readonly sealed: string;
  /** Absent: the secret is not for this host, and its sealed text stays. */
  readonly value?: string | undefined;
}

/** The beginning of every sealed text. */
const prefix = "osb_sealed_";

/** Texts of Node's HTTP are Latin-1; a value is sent as UTF-8. */
type Encode = (value: string) => string;

const asIs: Encode = (value) => Buffer.from(value).toString("latin1");
const inJson: Encode = (value) => asIs(JSON.stringify(value).slice(1, -1));
const inUrl: Encode = encodeURIComponent;

/** Replaces the sealed texts in parts of a request, and remembers those that stayed. */
export class Unsealing {
  readonly #secrets: readonly Injected[];
  /** Names of secrets that are not for this host, and `undefined` for sealed texts of no secret. */
  readonly kept = new Set<string | undefined>();
  #isUsed = false;

  constructor(secrets: readonly Injected[]) {
    this.#secrets = secrets;
  }

  /** Whether a value is now part of the request. */
  get isUsed(): boolean {
    return this.#isUsed;
  }

  /** The target of a request: path and query. */
  target(url: string): string {
    return this.#replace(url, inUrl);
  }

  /** Raw headers: alternating names and values. */
  headers(raw: readonly string[]): string[] {
    return raw.map((text, index) => (index % 2 === 0 ? text : this.#header(text)));
  }

  json(body: Buffer): Buffer {
    return this.#body(body, inJson);
  }

  form(body: Buffer): Buffer {
    return this.#body(body, inUrl);
  }

  #body(body: Buffer, encode: Encode): Buffer {
    if (!body.includes(prefix)) return body;
    return Buffer.from(this.#replace(body.toString("latin1"), encode), "latin1");
  }

  /** `Basic` credentials are base64, in which a sealed text does not show. */
  #header(text: string): string {
    const basic = /^(basic +)([A-Za-z0-9+/]+={0,2})$/i.exec(text.trim());
    if (basic === null) return this.#replace(text, asIs);
    const [, scheme = "", encoded = ""] = basic;
    const credentials = Buffer.from(encoded, "base64").toString("latin1");
    const opened = this.#replace(credentials, asIs);
    return opened === credentials ? text : scheme + Buffer.from(opened, "latin1").toString("base64");
  }

  #replace(text: string, encode: Encode): string {
    if (!text.includes(prefix)) return text;
    return text.replaceAll(/osb_sealed_[0-9a-f]{32}/g, (sealed) => {
      const secret = this.#secrets.find((known) => known.sealed === sealed);
      if (secret?.value === undefined) {
        this.kept.add(secret?.name);
        return sealed;
      }
      this.#isUsed = true;
      return encode(secret.value);
    });
  }
}

/**
 * Puts sealed texts in place of values in the headers of an answer, so that a redirect or a cookie that repeats a part of
 * the request does not tell the guest a value.
 */
export function sealHeaders(raw: readonly string[], secrets: readonly Injected[]): string[] {
  const known = secrets.flatMap(({ sealed, value }) =>
    value === undefined ? [] : [...new Set([asIs(value), inUrl(value)])].map((text) => ({ sealed, text })),
  );
  // A value that is part of another one must not spoil it.
  known.sort((one, other) => other.text.length - one.text.length);
  return raw.map((text, index) =>
    index % 2 === 0
      ? text
      : known.reduce((sealedText, { sealed, text: value }) => sealedText.replaceAll(value, sealed), text),
  );
}
