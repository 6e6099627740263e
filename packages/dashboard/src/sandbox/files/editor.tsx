import { javascript } from "@codemirror/lang-javascript";
import { json } from "@codemirror/lang-json";
import { python } from "@codemirror/lang-python";
import { HighlightStyle, StreamLanguage, syntaxHighlighting } from "@codemirror/language";
import { css } from "@codemirror/legacy-modes/mode/css";
import { dockerFile } from "@codemirror/legacy-modes/mode/dockerfile";
import { shell } from "@codemirror/legacy-modes/mode/shell";
import { toml } from "@codemirror/legacy-modes/mode/toml";
import { html } from "@codemirror/legacy-modes/mode/xml";
import { yaml } from "@codemirror/legacy-modes/mode/yaml";
import { EditorState, type Extension } from "@codemirror/state";
import { EditorView } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { basicSetup } from "codemirror";
import { type ReactNode, useEffect, useRef } from "react";
import { withAdoptedStyles } from "../../ui/style-elements.ts";
import styles from "./files.module.css";

/** Colours are the custom properties of the page's themes. */
const highlighting = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier, tags.tagName], color: "var(--accent)" },
  { tag: [tags.string, tags.regexp, tags.attributeValue], color: "var(--info)" },
  { tag: [tags.number, tags.bool, tags.null, tags.atom], color: "var(--warning)" },
  { tag: [tags.comment, tags.meta], color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.definition(tags.variableName), tags.typeName, tags.className, tags.heading], fontWeight: "600" },
]);

const look = EditorView.theme({
  "&": { height: "100%", fontSize: "0.8125rem", backgroundColor: "var(--surface)", color: "var(--text)" },
  ".cm-scroller": { fontFamily: "var(--mono)" },
  ".cm-content": { caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": { backgroundColor: "var(--sunken)", color: "var(--muted)", borderColor: "var(--border)" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--hover)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "var(--accent-soft)",
  },
  ".cm-panels": { backgroundColor: "var(--sunken)", color: "var(--text)" },
  ".cm-textfield, .cm-button": { backgroundImage: "none", backgroundColor: "var(--surface)", color: "var(--text)" },
});

interface EditorProps {
  /** The name of the field for screen readers. */
  readonly label: string;
  /** Chooses the language. */
  readonly fileName: string;
  readonly isReadOnly: boolean;
  readonly initialText: string;
  readonly onChange: (text: string) => void;
}

/** A text with line numbers, search, undo and the colours of its language. Escape, then Tab, leaves it by keyboard. */
export default function Editor({ label, fileName, isReadOnly, initialText, onChange }: EditorProps): ReactNode {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const parent = place.current;
    if (parent === null) return undefined;
    const state = EditorState.create({
      doc: initialText,
      extensions: [
        basicSetup,
        syntaxHighlighting(highlighting),
        look,
        languageOf(fileName),
        EditorState.readOnly.of(isReadOnly),
        EditorView.contentAttributes.of({ "aria-label": label }),
        EditorView.updateListener.of(({ docChanged, state: { doc } }) => {
          if (docChanged) onChange(doc.toString());
        }),
      ],
    });
    const view = withAdoptedStyles(() => new EditorView({ state, parent }));
    return () => view.destroy();
  }, [label, fileName, isReadOnly, initialText, onChange]);
  return <div ref={place} className={styles["editor"]} />;
}

function languageOf(fileName: string): Extension {
  const name = fileName.toLowerCase();
  const ending = name.split(".").at(-1) ?? "";
  if (/^(?:[mc]?[jt]sx?)$/.test(ending))
    return javascript({ jsx: ending.endsWith("x"), typescript: /ts/.test(ending) });
  if (ending === "py") return python();
  if (ending === "json") return json();
  if (name.startsWith("dockerfile")) return StreamLanguage.define(dockerFile);
  if (["sh", "bash", "bashrc", "profile"].includes(ending)) return StreamLanguage.define(shell);
  if (["yaml", "yml"].includes(ending)) return StreamLanguage.define(yaml);
  if (["html", "xml", "svg"].includes(ending)) return StreamLanguage.define(html);
  if (ending === "toml") return StreamLanguage.define(toml);
  return ending === "css" ? StreamLanguage.define(css) : [];
}
