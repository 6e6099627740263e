import type { Route } from "@opensandbox/wire/route.ts";

type Schema = Readonly<Record<string, unknown>>;

/** What the page reads of an OpenAPI document. */
interface Document {
  readonly info?: { readonly title?: string; readonly version?: string };
  readonly components?: { readonly schemas?: Readonly<Record<string, Schema>> };
}

/**
 * The API as one page for people, without scripts and without anything from elsewhere: the routes in their order, each
 * with what it takes and gives, and after them the named schemas that they refer to. Pure.
 */
export function documentationPage(routes: readonly Route[], document: Record<string, unknown>): string {
  const { info = {}, components = {} } = document as Document;
  const schemas = Object.entries(components.schemas ?? {});
  const title = `${info.title ?? "API"} ${info.version ?? ""}`.trim();
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<style>${style}</style>
</head>
<body>
<header><h1>${escape(title)}</h1>
<p>Every call but those marked <em>open</em> needs a key, in the header <code>X-API-Key</code> or as
<code>Authorization: Bearer</code>. A failure is answered with <a href="#schema-ErrorReply">ErrorReply</a>. The same as
a document for programs: <a href="/openapi.json">openapi.json</a>.</p></header>
<main>
<nav><ol>${routes.map(linkTo).join("")}</ol></nav>
<section>${routes.map((route) => operation(route, document)).join("\n")}
<h2>Schemas</h2>
${schemas.map(([name, schema]) => `<article id="schema-${escape(name)}"><h3>${escape(name)}</h3>${tableOf(schema)}</article>`).join("\n")}
</section>
</main>
</body>
</html>
`;
}

function linkTo({ name, method, path }: Route): string {
  return `<li><a href="#${escape(name)}"><b>${method}</b> ${escape(path)}</a></li>`;
}

function operation(route: Route, document: Record<string, unknown>): string {
  const { name, method, path, summary, description = "", access, status } = route;
  const operations = (document["paths"] ?? {}) as Record<string, Record<string, Schema>>;
  const printed = operations[path.replaceAll(/:(\w+)/g, "{$1}")]?.[method.toLowerCase()] ?? {};
  const parameters = (printed["parameters"] ?? []) as readonly Schema[];
  const inQuery = parameters.filter((parameter) => parameter["in"] === "query");
  const body = schemaIn(printed["requestBody"]);
  const replies = (printed["responses"] ?? {}) as Record<string, Schema>;
  const reply = schemaIn(replies[status]);
  return `<article id="${escape(name)}">
<h3><b class="${method.toLowerCase()}">${method}</b> <code>${escape(path)}</code>${access === "open" ? " <em>open</em>" : ""}</h3>
<p>${escape(summary)}.</p>
${description === "" ? "" : `<p>${prose(description)}</p>`}
${inQuery.length === 0 ? "" : `<h4>Query</h4>${rows(inQuery.map(parameterRow))}`}
${body === undefined ? "" : `<h4>Body</h4>${route.bytesIn ? "<p>bytes</p>" : tableOf(body)}`}
<h4>Answer ${status}</h4>${route.bytesOut ? "<p>bytes</p>" : reply === undefined ? "<p>nothing</p>" : tableOf(reply)}
</article>`;
}

/** The JSON schema of a body or an answer; undefined where there is none. */
function schemaIn(part: unknown): Schema | undefined {
  const content = (part as { content?: Record<string, { schema?: Schema }> } | undefined)?.content;
  if (content === undefined) return undefined;
  return content["application/json"]?.schema ?? {};
}

function tableOf(schema: Schema): string {
  const properties = schema["properties"] as Record<string, Schema> | undefined;
  if (properties === undefined) return `<p>${typeOf(schema)}</p>`;
  const required = new Set((schema["required"] ?? []) as readonly string[]);
  return rows(Object.entries(properties).map(([name, field]) => fieldRow(name, field, required.has(name))));
}

function fieldRow(name: string, field: Schema, required: boolean): string {
  return row(name, required, typeOf(field), field["description"]);
}

function parameterRow({ name, required, schema, description }: Schema): string {
  return row(String(name), required === true, typeOf(schema as Schema), description);
}

function row(name: string, required: boolean, type: string, description: unknown): string {
  const told = typeof description === "string" ? prose(description) : "";
  return `<tr><td><code>${escape(name)}</code>${required ? "" : "?"}</td><td>${type}</td><td>${told}</td></tr>`;
}

function rows(all: readonly string[]): string {
  return `<table>${all.join("")}</table>`;
}

function typeOf(schema: Schema): string {
  const reference = schema["$ref"];
  if (typeof reference === "string") {
    const name = reference.slice(reference.lastIndexOf("/") + 1);
    return `<a href="#schema-${escape(name)}">${escape(name)}</a>`;
  }
  const choices = (schema["anyOf"] ?? schema["oneOf"]) as readonly Schema[] | undefined;
  if (choices !== undefined) return choices.map(typeOf).join(" or ");
  const values = schema["enum"] as readonly unknown[] | undefined;
  if (values !== undefined) return values.map((value) => `<code>${escape(JSON.stringify(value))}</code>`).join(" ");
  if ("const" in schema) return `<code>${escape(JSON.stringify(schema["const"]))}</code>`;
  if (schema["type"] === "array") return `array of ${typeOf((schema["items"] ?? {}) as Schema)}`;
  const members = schema["additionalProperties"];
  if (schema["type"] === "object" && typeof members === "object") return `map of ${typeOf(members as Schema)}`;
  return escape(typeof schema["type"] === "string" ? schema["type"] : "any");
}

/** Text as the schemas have it: paragraphs, and words in backquotes. */
function prose(text: string): string {
  return escape(text)
    .replaceAll("\n\n", "</p><p>")
    .replaceAll(/`([^`]*)`/g, "<code>$1</code>");
}

function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}

const style = `
:root { color-scheme: light dark; --line: #8884; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1.5rem; }
main { display: grid; grid-template-columns: 22rem minmax(0, 1fr); gap: 2rem; }
nav { position: sticky; top: 1rem; align-self: start; max-height: calc(100vh - 2rem); overflow: auto; font-size: 13px; }
nav ol { list-style: none; padding: 0; margin: 0; }
nav li { white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
nav b { display: inline-block; width: 5em; font-size: 11px; }
article { border-top: 1px solid var(--line); padding: .5rem 0 1rem; }
h3 { margin: .6rem 0; font-size: 16px; } h4 { margin: .8rem 0 .2rem; font-size: 13px; opacity: .7; }
h3 b { font-size: 12px; padding: .15em .5em; border-radius: .3em; background: var(--soft); }
table { border-collapse: collapse; width: 100%; } td { padding: .25rem .5rem .25rem 0; vertical-align: top; overflow-wrap: anywhere; border-bottom: 1px solid var(--soft); }
td:first-child, td:nth-child(2) { width: 28%; }
code { font: 13px ui-monospace, monospace; } a { color: inherit; }
p { margin: .3rem 0; max-width: 46rem; }
h3, p { overflow-wrap: anywhere; }
@media (max-width: 60rem) { main { grid-template-columns: minmax(0, 1fr); } nav { position: static; max-height: 14rem; } }
`;
