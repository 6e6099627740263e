import { resolve } from "node:path";
import { SandboxError } from "@opensandbox/wire/errors.ts";
import type { ObjectStore } from "./object-store.ts";
import { storeTuning } from "./retry.ts";

export interface ObjectStoreOptions {
  /** `file:///directory`, `s3://bucket/prefix`, or `azblob://container/prefix` with or without `?account=name`. */
  readonly url: string;
  /** The account of Azure with its key. With an account in the URL, the host's managed identity signs in instead. */
  readonly azureConnectionString?: string | undefined;
}

/**
 * Opens the store that a URL names. Only that kind's SDK is loaded.
 * @throws `invalid_argument` for a URL of another form
 */
export async function openObjectStore(
  { url, azureConnectionString }: ObjectStoreOptions,
  tuning = storeTuning,
): Promise<ObjectStore> {
  const { protocol, hostname, pathname, searchParams } = parse(url);
  const prefix = pathname.replace(/^\/+|\/+$/g, "");
  const place = { prefix: prefix === "" ? "" : `${prefix}/` };
  switch (protocol) {
    case "file:": {
      const { DirectoryStore } = await import("./directory-store.ts");
      return await DirectoryStore.open(resolve(decodeURIComponent(pathname)));
    }
    case "s3:": {
      const { S3Store } = await import("./s3-store.ts");
      const [endpoint, region] = [searchParams.get("endpoint"), searchParams.get("region")];
      const options = { ...(endpoint === null ? {} : { endpoint }), ...(region === null ? {} : { region }) };
      return new S3Store({ ...place, bucket: hostname, ...options }, tuning);
    }
    case "azblob:": {
      const account = searchParams.get("account");
      const { AzureStore } = await import("./azure-store.ts");
      if (account !== null) {
        if (!/^[a-z0-9]{3,24}$/.test(account))
          throw new SandboxError("invalid_argument", `${account} is not the name of a storage account`);
        const { identityCredential } = await import("./azure-identity.ts");
        const access = { account, credential: identityCredential() };
        return new AzureStore({ ...place, container: hostname, access }, tuning);
      }
      if (!azureConnectionString) {
        const message = `${url} needs '?account=NAME', for the managed identity of this host, or AZURE_STORAGE_CONNECTION_STRING, which names the account and its key`;
        throw new SandboxError("invalid_argument", message);
      }
      const access = { connectionString: azureConnectionString };
      return new AzureStore({ ...place, container: hostname, access }, tuning);
    }
    default:
      throw new SandboxError("invalid_argument", `${url}: an object store begins with file://, s3:// or azblob://`);
  }
}

function parse(url: string): URL {
  const parsed = URL.parse(url);
  const needsHost = parsed?.protocol !== "file:";
  if (parsed !== null && (needsHost ? parsed.hostname !== "" : parsed.pathname.length > 1)) return parsed;
  const message = `${url} is not the URL of an object store: use file:///directory, s3://bucket/prefix or azblob://container/prefix`;
  throw new SandboxError("invalid_argument", message);
}
