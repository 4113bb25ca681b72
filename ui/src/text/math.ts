// Formulas, as MathML, which browsers set themselves: no fonts, no styles. KaTeX is loaded when the first one is seen.

import type { TokenizerAndRendererExtension } from "marked";

import { escaped } from "./escape";
import { arrived } from "./late.svelte";

type Katex = typeof import("katex").default;

/** Longer formulas stay as they are written. */
const LONGEST = 4000;

let katex: Katex | null = null;
let asked = false;

/** `tex` as HTML: set as soon as KaTeX is there, as code until then and where it is wrong. */
export function formula(tex: string, display: boolean): string {
  const raw = display ? `<div class="formula"><code>${escaped(tex)}</code></div>` : `<code>${escaped(tex)}</code>`;
  if (tex.length > LONGEST) return raw;
  if (!katex) {
    if (!asked) {
      asked = true;
      void load();
    }
    return raw;
  }
  try {
    const made = katex.renderToString(tex, {
      displayMode: display, output: "mathml", throwOnError: true, strict: "ignore", trust: false, maxSize: 20, maxExpand: 200,
    });
    // The sanitiser drops these too, but a browser reports an inline style as soon as it is parsed. The source in TeX would be read aloud.
    const plain = made.replace(/ style="[^"]*"/g, "").replace(/<annotation[^>]*>[\s\S]*?<\/annotation>/g, "");
    return display ? `<div class="formula" tabindex="0" role="group">${plain}</div>` : plain;
  } catch {
    return raw;
  }
}

async function load(): Promise<void> {
  try {
    katex = (await import("katex")).default;
    arrived();
  } catch {
    asked = false;
  }
}

function extension(name: string, level: "block" | "inline", start: RegExp, whole: RegExp, display: boolean): TokenizerAndRendererExtension {
  return {
    name,
    level,
    start: (source) => {
      const at = source.search(start);
      return at < 0 ? undefined : at;
    },
    tokenizer: (source) => {
      const found = whole.exec(source);
      return found ? { type: name, raw: found[0], text: (found[1] ?? found[2]).trim() } : undefined;
    },
    renderer: (token) => formula(token.text as string, display),
  };
}

/** `$$…$$` and `\[…\]` on lines of their own or in a line, `\(…\)`, and `$…$` that cannot be two prices. */
export const mathExtensions: TokenizerAndRendererExtension[] = [
  extension("mathBlock", "block", /^ {0,3}(?:\$\$|\\\[)/m, /^ {0,3}(?:\$\$((?:[^$]|\$(?!\$)){1,4000}?)\$\$|\\\[([\s\S]{1,4000}?)\\\])[ \t]*(?:\n|$)/, true),
  extension("mathDisplay", "inline", /\$\$|\\\[/, /^(?:\$\$((?:[^$\n]|\$(?!\$)){1,4000}?)\$\$|\\\[([\s\S]{1,4000}?)\\\])/, true),
  extension("mathInline", "inline", /\$|\\\(/, /^(?:\\\(([\s\S]{1,2000}?)\\\)|\$(?![\s\d$])((?:[^$\n\\]|\\.){0,400}?[^\s$\\])\$(?![\d\w]))/, false),
];
