import { parseSync } from "oxc-parser";

interface SyntaxNode {
  readonly type: string;
  readonly start: number;
  readonly end: number;
}

/**
 * Inserts a call of `recorder` at the beginning of every function of a TypeScript module. Lines keep their numbers.
 * @param recorder an expression that is valid everywhere in the module; it is called with `file` and the function's name
 */
export function instrument(source: string, file: string, recorder: string): string {
  const { program, errors } = parseSync(file, source);
  if (errors.length > 0) throw new Error(`Cannot parse ${file}: ${errors[0]?.message}`);
  const insertions: { readonly at: number; readonly text: string }[] = [];
  visit(program, "", (node, name) => {
    const { body, expression } = node as SyntaxNode & { body?: SyntaxNode | null; expression?: boolean };
    if (!/^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/.test(node.type) || !body) return;
    const call = `${recorder}(${JSON.stringify(file)}, ${JSON.stringify(name)})`;
    if (expression) {
      insertions.push({ at: body.start, text: `(${call}, ` }, { at: body.end, text: ")" });
    } else {
      insertions.push({ at: body.start + 1, text: ` ${call};` });
    }
  });
  // Of two insertions at one place, the inner function's closing one was found later and goes first.
  const ordered = insertions
    .map((insertion, index) => ({ ...insertion, index }))
    .toSorted((a, b) => a.at - b.at || (a.text === ")" ? b.index - a.index : a.index - b.index));
  let text = "";
  let from = 0;
  for (const { at, text: inserted } of ordered) {
    text += source.slice(from, at) + inserted;
    from = at;
  }
  return text + source.slice(from);
}

/** Calls `see` for each node below `node`, with the name of the declaration that the node belongs to. */
function visit(node: SyntaxNode, name: string, see: (node: SyntaxNode, name: string) => void): void {
  const own = nameOf(node) ?? name;
  see(node, own);
  for (const child of Object.values(node) as unknown[]) {
    for (const each of Array.isArray(child) ? (child as unknown[]) : [child]) if (isNode(each)) visit(each, own, see);
  }
}

function nameOf(node: SyntaxNode): string | undefined {
  const { id, key } = node as SyntaxNode & { id?: { name?: string } | null; key?: { name?: string } | null };
  return id?.name ?? key?.name;
}

function isNode(value: unknown): value is SyntaxNode {
  return typeof value === "object" && value !== null && "type" in value && "start" in value;
}
