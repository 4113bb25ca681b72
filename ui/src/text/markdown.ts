// From what a model wrote to safe HTML: Markdown with code and formulas; HTML in it is text. Nothing here trusts its input.

import DOMPurify, { type Config } from "dompurify";
import { Marked, type Token, type TokensList } from "marked";

import { coloured } from "./code";
import { escaped } from "./escape";
import { formula, mathExtensions } from "./math";

/** A top-level part of a text. */
export interface Block {
  html: string;
}

/** Longer texts, and more deeply nested ones, are shown as they are: they are no prose. */
const LONGEST = 200_000;
const NESTED = /^(?:[ \t]*(?:>|(?:[-*+]|\d{1,9}[.)])[ \t])){24}/m;
const TANGLED = /[[*_~`(!]{400}/;
/** Signs of emphasis in one paragraph above which the parser would take too long. */
const EMPHASES = 1500;
/** Blocks whose HTML is remembered, so that a growing text is not made anew with each word. */
const REMEMBERED = 4000;

const ALLOWED: Config = {
  ALLOWED_TAGS: [
    "p", "br", "strong", "em", "del", "code", "pre", "ul", "ol", "li", "h3", "h4", "h5", "h6", "blockquote", "hr", "a", "div", "span",
    "table", "thead", "tbody", "tr", "th", "td", "button",
    "math", "semantics", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot", "mover",
    "munder", "munderover", "mtable", "mtr", "mtd", "mlabeledtr", "mpadded", "mphantom", "menclose", "mstyle", "mmultiscripts", "mprescripts",
  ],
  ALLOWED_ATTR: [
    "href", "target", "rel", "title", "class", "start", "align", "tabindex", "role", "aria-label", "type", "data-copy", "dir",
    "mathvariant", "mathcolor", "mathbackground", "mathsize", "display", "displaystyle", "scriptlevel", "stretchy", "fence", "separator", "form",
    "lspace", "rspace", "minsize", "maxsize", "accent", "accentunder", "width", "height", "depth", "voffset", "linethickness", "columnalign",
    "columnspacing", "rowspacing", "columnlines", "rowlines", "notation", "symmetric", "largeop", "movablelimits", "xmlns",
  ],
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  // The sanitiser asks this of every attribute: these schemes, or what has none.
  ALLOWED_URI_REGEXP: /^(?:(?:https?|mailto):|[^a-z]|[a-z+.-]+(?:[^a-z+.\-:]|$))/i,
};

/** The words that the copy button of a code block needs. */
export interface Labels {
  copy: string;
  code: string;
}

let labels: Labels = { copy: "Copy", code: "Code" };

const marked = new Marked({ gfm: true, breaks: true, async: false });
marked.use({
  extensions: mathExtensions,
  renderer: {
    html: ({ text }) => escaped(text),
    // A picture would be fetched from somebody; its address is told instead.
    image: ({ href, text }) => link(href, escaped(text || href)),
    link({ href, tokens }) {
      return link(href, this.parser.parseInline(tokens));
    },
    heading({ depth, tokens }) {
      const name = `h${Math.min(depth + 2, 6)}`;
      return `<${name}>${this.parser.parseInline(tokens)}</${name}>`;
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    code({ text, lang }) {
      const language = /^[\w+#.-]{1,24}/.exec(lang ?? "")?.[0] ?? "";
      if (/^(?:math|latex|tex)$/i.test(language) && text.length < 4000) return formula(text, true);
      const copy = `<button type="button" class="copy" data-copy="code">${escaped(labels.copy)}</button>`;
      const head = `<div class="code-head"><span>${escaped(language)}</span>${copy}</div>`;
      const name = escaped(language ? `${labels.code}: ${language}` : labels.code);
      return `<div class="code" dir="ltr">${head}<pre tabindex="0" role="group" aria-label="${name}"><code>${coloured(text, language)}</code></pre></div>`;
    },
  },
});

function link(href: string, inside: string): string {
  return /^(?:https?:\/\/|mailto:)/i.test(href)
    ? `<a href="${escaped(href)}" target="_blank" rel="noopener noreferrer nofollow">${inside}</a>`
    : inside;
}

let remembered = new Map<string, string>();
let version = -1;

export function setLabels(now: Labels): void {
  labels = now;
  remembered = new Map();
}

/** The blocks of `source`, each of them safe to show. With another `now` all are made anew. */
export function blocks(source: string, now: number): Block[] {
  if (now !== version) remembered = new Map();
  version = now;
  const text = source.replace(/\r\n?/g, "\n").replaceAll("\0", "\uFFFD");
  if (text.length > LONGEST || NESTED.test(text) || TANGLED.test(text) || emphatic(text)) return [plain(text)];
  try {
    const tokens = marked.lexer(text);
    return tokens.filter((token) => token.type !== "space").map((token) => ({ html: html(token, tokens.links) }));
  } catch {
    // The parser gives up on texts that are nested too deeply.
    return [plain(text)];
  }
}

function html(token: Token, links: TokensList["links"]): string {
  const key = `${token.type} ${token.raw} ${token.raw.includes("[") ? JSON.stringify(links) : ""}`;
  const known = remembered.get(key);
  if (known !== undefined) return known;
  const made = marked.parser([token]);
  const wrapped = token.type === "table" ? `<div class="table" tabindex="0" role="group">${made}</div>` : made;
  const safe = DOMPurify.sanitize(wrapped, ALLOWED);
  if (remembered.size >= REMEMBERED) remembered = new Map();
  remembered.set(key, safe);
  return safe;
}

function emphatic(text: string): boolean {
  return text.split(/\n\s*\n/).some((part) => part.length > EMPHASES && (part.match(/[*_]/g)?.length ?? 0) > EMPHASES);
}

function plain(text: string): Block {
  return { html: `<p class="plain">${escaped(text)}</p>` };
}
