/**
 * Runs a library that writes styles into style elements, which the page's policy forbids. While it runs, such an element
 * becomes one that shows nothing, and its text a style sheet of the document. The policy allows that: no markup can make
 * one.
 */
export function withAdoptedStyles<T>(run: () => T): T {
  const create = document.createElement.bind(document);
  document.createElement = ((tag: string, options?: ElementCreationOptions) =>
    tag === "style" ? adoptedStyle(create("template")) : create(tag, options)) as typeof document.createElement;
  try {
    return run();
  } finally {
    // The document's prototype has the original.
    Reflect.deleteProperty(document, "createElement");
  }
}

function adoptedStyle(element: Element): Element {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets.push(sheet);
  Object.defineProperty(element, "textContent", { set: (text: string) => sheet.replaceSync(text) });
  element.remove = () => {
    document.adoptedStyleSheets = document.adoptedStyleSheets.filter((each) => each !== sheet);
    Element.prototype.remove.call(element);
  };
  return element;
}
