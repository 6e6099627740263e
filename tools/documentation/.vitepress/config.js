import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { transformerStyleToClass } from "@shikijs/transformers";

// The site of docs/. The server's policy allows no inline script and no inline style, so both become files.

const docs = join(import.meta.dirname, "../docs");
const highlighting = transformerStyleToClass({ classPrefix: "code-" });
/** File names by the hash of their content, with the inline scripts of VitePress's pages. */
const scripts = new Map();

const mark = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" fill="#0e6b50"/><path d="M8.5 20v-7A4.5 4.5 0 0 1 13 8.5h6a4.5 4.5 0 0 1 4.5 4.5v7M6.5 23.5h19" fill="none" stroke="#fff" stroke-width="2.5" stroke-linecap="round"/></svg>`;
const icon = `data:image/svg+xml,${encodeURIComponent(mark)}`;

const page = (text, name) => ({ text, link: `/${name}` });

function titleOf(file) {
  return /^# (.+)$/m.exec(readFileSync(join(docs, file), "utf8"))[1].replaceAll("`", "");
}

function pagesIn(directory) {
  const names = readdirSync(join(docs, directory)).filter((name) => name.endsWith(".md"));
  return names.toSorted().map((name) => page(titleOf(`${directory}/${name}`), `${directory}/${name.slice(0, -3)}`));
}

const sidebar = [
  {
    text: "Start",
    items: [
      page("Quick start", "guides/quick-start"),
      page("Concepts", "guides/concepts"),
      page("Agents in TypeScript", "guides/agents-typescript"),
      page("Agents in Python", "guides/agents-python"),
      page("Recipes", "guides/recipes"),
      page("Comparison", "guides/comparison"),
      page("A recorded session", "first-session"),
    ],
  },
  {
    text: "Use",
    items: [
      page("Dashboard", "dashboard"),
      page("Images and templates", "images"),
      page("Secrets", "secrets"),
      page("Events and webhooks", "events"),
      page("SSH", "ssh"),
      page("Tools of agents (MCP)", "mcp"),
      page("E2B's clients", "e2b"),
      page("OpenComputer's clients", "compatibility"),
    ],
  },
  {
    text: "Operate",
    items: [
      page("Installation", "install"),
      page("Operations", "operations"),
      page("Database", "database"),
      page("Retention", "retention"),
      page("Azure", "azure"),
      page("Performance", "performance"),
    ],
  },
  { text: "Trust", items: [page("Security", "security"), page("Faults", "faults")] },
  { text: "Inside", items: [...pagesIn("flows"), page("Decisions", "decisions/0001-server-package")] },
];

/** The documents name each other as code, such as `docs/ssh.md`. On the site those names are links. */
function linkDocuments(markdown) {
  const plain = markdown.renderer.rules.code_inline;
  markdown.renderer.rules.code_inline = (tokens, index, ...rest) => {
    const code = plain(tokens, index, ...rest);
    const [, name] = /^docs\/(.+)\.md$/.exec(tokens[index].content) ?? [];
    const isLinked = tokens.slice(0, index).findLast(({ type }) => type.startsWith("link_"))?.type === "link_open";
    return name === undefined || isLinked ? code : `<a href="/docs/${name}">${code}</a>`;
  };
}

export default {
  srcDir: "docs",
  base: "/docs/",
  lang: "en",
  title: "OpenSandbox",
  description: "A real Linux machine for every agent, on your own hosts",
  cleanUrls: true,
  // One page after the other: the order is part of the search index, and equal sources make equal packages.
  buildConcurrency: 1,
  metaChunk: true,
  // The default writes a style element when the theme changes.
  appearance: { disableTransition: false },
  ignoreDeadLinks: ["/api", /^http:..localhost/],
  head: [
    ["link", { rel: "stylesheet", href: "/docs/code.css" }],
    ["link", { rel: "icon", type: "image/svg+xml", href: icon }],
  ],
  markdown: {
    html: false,
    theme: { light: "github-light-high-contrast", dark: "github-dark-high-contrast" },
    codeTransformers: [highlighting],
    config: linkDocuments,
  },
  themeConfig: {
    search: { provider: "local" },
    outline: [2, 3],
    nav: [
      { text: "Guides", link: "/guides/quick-start" },
      { text: "API", link: "/api", target: "_self", noIcon: true },
    ],
    sidebar: {
      "/decisions/": [{ text: "Decisions", items: [page("All documents", ""), ...pagesIn("decisions")] }],
      "/": sidebar,
    },
  },
  transformHtml(html) {
    const external = html
      .replaceAll(/<script id="[^"]+">(.*?)<\/script>/gs, (_all, content) => {
        const name = `assets/${createHash("sha256").update(content).digest("hex").slice(0, 8)}.js`;
        scripts.set(name, content);
        return `<script src="/docs/${name}"></script>`;
      })
      // Their rules are in theme/style.css; the page's script sets the variable again.
      .replaceAll(/ style="(?:position:relative;|--vp-vh:0px;)"/g, "");
    const [inline] = /<script(?![^>]* src=)[^>]*>| style="[^"]*"|<style\b/.exec(external) ?? [];
    if (inline !== undefined) throw new Error(`a page has ${inline}, which its policy forbids`);
    return external;
  },
  buildEnd({ outDir }) {
    mkdirSync(join(outDir, "assets"), { recursive: true });
    for (const [name, content] of scripts) writeFileSync(join(outDir, name), content);
    // In a fixed order: pages are highlighted at the same time.
    const rules = highlighting.getCSS().match(/[^}]+\}/g) ?? [];
    writeFileSync(join(outDir, "code.css"), `${rules.toSorted().join("\n")}\n`);
  },
};
