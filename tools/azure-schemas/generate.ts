// Compiles the models of Microsoft's packages for Azure Resource Manager to one JSON Schema, which the simulated Resource
// Manager of the tests checks request bodies against. The packages are large and needed for this alone, so they are no
// dependencies. Usage: npm install --prefix DIR PACKAGES..., then: node tools/azure-schemas/generate.ts DIR
import { readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";

const output = resolve(import.meta.dirname, "../../packages/cli/src/commands/azure/testing/published-schemas.json");

/** Packages with their models, and the models of request bodies by the type of the resource, or by method and action. */
const packages: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  "arm-resources@6.1.0": { "microsoft.resources/resourcegroups": "ResourceGroup" },
  "arm-network@34.1.0": {
    "microsoft.network/networksecuritygroups": "NetworkSecurityGroup",
    "microsoft.network/virtualnetworks": "VirtualNetwork",
    "microsoft.network/publicipaddresses": "PublicIPAddress",
    "microsoft.network/networkinterfaces": "NetworkInterface",
    "microsoft.network/natgateways": "NatGateway",
  },
  "arm-compute@22.4.0": {
    "microsoft.compute/disks": "Disk",
    "microsoft.compute/virtualmachines": "VirtualMachine",
    "microsoft.compute/images": "Image",
    "microsoft.compute/virtualmachinescalesets": "VirtualMachineScaleSet",
    "PATCH microsoft.compute/virtualmachinescalesets": "VirtualMachineScaleSetUpdate",
    "POST microsoft.compute/virtualmachinescalesets/delete": "VirtualMachineScaleSetVMInstanceRequiredIDs",
  },
  "arm-msi@2.2.0": { "microsoft.managedidentity/userassignedidentities": "Identity" },
  "arm-storage@18.4.0": {
    "microsoft.storage/storageaccounts": "StorageAccountCreateParameters",
    "microsoft.storage/storageaccounts/blobservices/containers": "BlobContainer",
    "microsoft.storage/storageaccounts/managementpolicies": "ManagementPolicy",
  },
  "arm-keyvault@3.2.0": {
    "microsoft.keyvault/vaults": "VaultCreateOrUpdateParameters",
    "microsoft.keyvault/vaults/secrets": "SecretCreateOrUpdateParameters",
  },
  "arm-privatedns@3.2.0": {
    "microsoft.network/privatednszones": "PrivateZone",
    "microsoft.network/privatednszones/virtualnetworklinks": "VirtualNetworkLink",
  },
  "arm-dns@5.1.0": { "microsoft.network/dnszones": "Zone", "microsoft.network/dnszones/a": "RecordSet" },
  "arm-postgresql-flexible@8.0.0": {
    "microsoft.dbforpostgresql/flexibleservers": "Server",
    "microsoft.dbforpostgresql/flexibleservers/databases": "Database",
  },
  "arm-authorization@9.0.0": { "microsoft.authorization/roleassignments": "RoleAssignmentCreateParameters" },
};

interface Mapper {
  readonly type: MapperType;
  readonly serializedName?: string;
  readonly required?: boolean;
  readonly readOnly?: boolean;
  readonly constraints?: Readonly<Record<string, unknown>>;
}

interface MapperType {
  readonly name: string;
  readonly className?: string;
  readonly modelProperties?: Readonly<Record<string, Mapper>>;
  readonly element?: Mapper;
  readonly value?: Mapper;
  readonly allowedValues?: readonly unknown[];
}

interface Schema {
  type?: string;
  $ref?: string;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: Schema | false;
  items?: Schema;
  [keyword: string]: unknown;
}

const defs: Record<string, Schema> = {};
const bodies: Record<string, string> = {};
const [directory = ""] = process.argv.slice(2);
if (directory === "") throw new Error(`usage: generate.ts DIR, with ${Object.keys(packages).join(" ")}`);
for (const [name, models] of Object.entries(packages)) await compile(name, models);
await writeFile(output, `${JSON.stringify({ packages: Object.keys(packages), bodies, $defs: defs })}\n`);

async function compile(name: string, models: Readonly<Record<string, string>>): Promise<void> {
  const [folder = "", version] = name.split("@");
  const root = join(directory, "node_modules/@azure", folder);
  const found = (JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { version: string }).version;
  if (found !== version) throw new Error(`${root} has version ${found} instead of ${version}`);
  const file = await firstOf([join(root, "dist/esm/models/mappers.js"), join(root, "dist-esm/src/models/mappers.js")]);
  const mappers = (await import(file)) as Readonly<Record<string, Mapper>>;
  const queue = Object.values(models);
  for (const [type, model] of Object.entries(models)) bodies[type] = keyOf(folder, model);
  for (let model = queue.shift(); model !== undefined; model = queue.shift()) {
    const key = keyOf(folder, model);
    if (defs[key] !== undefined) continue;
    const mapper = mappers[model];
    if (mapper === undefined) throw new Error(`${name} has no model ${model}`);
    defs[key] = objectOf(mapper.type.modelProperties ?? {}, (type) => schemaOf(type, folder, queue));
  }
}

function keyOf(folder: string, model: string): string {
  return `${folder.slice("arm-".length)}.${model}`;
}

/** The names of properties may be paths: `properties.hardwareProfile`. What only Azure writes is left out. */
function objectOf(properties: Readonly<Record<string, Mapper>>, schemaOf: (mapper: Mapper) => Schema): Schema {
  const result: Schema = { type: "object", properties: {}, additionalProperties: false };
  for (const mapper of Object.values(properties)) {
    if (mapper.readOnly || mapper.serializedName === undefined) continue;
    const path = mapper.serializedName.split(/(?<!\\)\./).map((part) => part.replaceAll("\\.", "."));
    const last = path.pop() ?? "";
    let at = result;
    for (const part of path) {
      at.properties ??= {};
      at = at.properties[part] ??= { type: "object", properties: {}, additionalProperties: false };
    }
    at.properties ??= {};
    at.properties[last] = schemaOf(mapper);
    // A body whose properties are a part of it always has that part.
    if (mapper.required) at.required = [...(at.required ?? []), last];
  }
  return result;
}

function schemaOf(mapper: Mapper, folder: string, queue: string[]): Schema {
  const { type, constraints = {} } = mapper;
  switch (type.name) {
    case "Composite": {
      if (type.className === undefined) return {};
      queue.push(type.className);
      return { $ref: `#/$defs/${keyOf(folder, type.className)}` };
    }
    case "Sequence":
      return { type: "array", items: type.element === undefined ? {} : schemaOf(type.element, folder, queue) };
    case "Dictionary": {
      const value = type.value === undefined ? {} : schemaOf(type.value, folder, queue);
      return { type: "object", additionalProperties: value };
    }
    case "Enum":
      return { enum: type.allowedValues ?? [] };
    case "Boolean":
      return { type: "boolean" };
    case "Number": {
      const { InclusiveMinimum: minimum, InclusiveMaximum: maximum } = constraints;
      return {
        type: "number",
        ...(minimum === undefined ? {} : { minimum }),
        ...(maximum === undefined ? {} : { maximum }),
      };
    }
    case "any":
    case "Object":
      return {};
    default: {
      const { Pattern, MinLength, MaxLength } = constraints;
      const bounds = {
        pattern: Pattern instanceof RegExp ? Pattern.source : Pattern,
        minLength: MinLength,
        maxLength: MaxLength,
      };
      const given = Object.entries(bounds).filter(([, value]) => value !== undefined);
      return { type: "string", ...Object.fromEntries(given) };
    }
  }
}

async function firstOf(files: readonly string[]): Promise<string> {
  for (const file of files)
    if (
      await readFile(file).then(
        () => true,
        () => false,
      )
    )
      return file;
  throw new Error(`none of ${files.join(", ")} exists`);
}
