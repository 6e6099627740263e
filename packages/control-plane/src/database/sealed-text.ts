import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

// AES-256-GCM with a random nonce of 96 bits: https://nvlpubs.nist.gov/nistpubs/Legacy/SP/nistspecialpublication800-38d.pdf
const algorithm = "aes-256-gcm";
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts a text for a column.
 * @param key 256 bits, hexadecimal
 * @param owner the id of its row: the text cannot be decrypted in another row
 */
export function sealText(text: string, key: string, owner: string): string {
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv(algorithm, Buffer.from(key, "hex"), nonce, { authTagLength: tagBytes });
  cipher.setAAD(Buffer.from(owner));
  const sealed = Buffer.concat([nonce, cipher.update(text, "utf8"), cipher.final(), cipher.getAuthTag()]);
  return `v1:${sealed.toString("base64")}`;
}

/** Decrypts what {@link sealText} made. @throws an error for another key, another owner or a changed text */
export function openText(sealed: string, key: string, owner: string): string {
  const bytes = Buffer.from(sealed.replace(/^v1:/, ""), "base64");
  const nonce = bytes.subarray(0, nonceBytes);
  const decipher = createDecipheriv(algorithm, Buffer.from(key, "hex"), nonce, { authTagLength: tagBytes });
  decipher.setAAD(Buffer.from(owner));
  decipher.setAuthTag(bytes.subarray(bytes.length - tagBytes));
  const text = decipher.update(bytes.subarray(nonceBytes, bytes.length - tagBytes));
  return Buffer.concat([text, decipher.final()]).toString("utf8");
}
