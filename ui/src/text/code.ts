// Colours for code. The highlighter and its languages are loaded when the first block that needs them is seen.

import type { HLJSApi, LanguageFn } from "highlight.js";

import { escaped } from "./escape";
import { arrived } from "./late.svelte";

/** Longer code stays in one colour. */
const LONGEST = 30_000;

type Group = Record<string, LanguageFn>;

const web = (): Promise<Group> => import("./languages/web");
const script = (): Promise<Group> => import("./languages/script");
const system = (): Promise<Group> => import("./languages/system");

const LANGUAGES: Record<string, () => Promise<Group>> = {
  bash: script, c: system, cpp: system, csharp: system, css: web, diff: script, go: system, haskell: system, ini: script, java: system,
  javascript: web, json: web, kotlin: system, lua: script, markdown: web, php: web, python: script, ruby: script, rust: system, sql: script,
  swift: system, typescript: web, xml: web, yaml: script,
};

const ALIASES: Record<string, string> = {
  "c++": "cpp", "c#": "csharp", cc: "cpp", cs: "csharp", golang: "go", h: "c", hpp: "cpp", hs: "haskell", html: "xml", js: "javascript",
  jsx: "javascript", kt: "kotlin", md: "markdown", py: "python", python3: "python", rb: "ruby", rs: "rust", sh: "bash", shell: "bash",
  svg: "xml", toml: "ini", ts: "typescript", tsx: "typescript", yml: "yaml", zsh: "bash", console: "bash",
};

let core: HLJSApi | null = null;
const asked = new Set<string>();

/** `text` as HTML, in colours as soon as its language is there. */
export function coloured(text: string, language: string): string {
  const named = language.toLowerCase();
  const name = ALIASES[named] ?? named;
  if (!Object.hasOwn(LANGUAGES, name) || text.length > LONGEST) return escaped(text);
  if (core?.getLanguage(name)) return core.highlight(text, { language: name, ignoreIllegals: true }).value;
  if (!asked.has(name)) {
    asked.add(name);
    void load(name);
  }
  return escaped(text);
}

async function load(name: string): Promise<void> {
  try {
    const [highlighter, language] = await Promise.all([import("highlight.js/lib/core"), LANGUAGES[name]()]);
    core = highlighter.default;
    for (const [each, grammar] of Object.entries(language)) core.registerLanguage(each, grammar);
    arrived();
  } catch {
    // Without the network the code stays in one colour; the next block asks again.
    asked.delete(name);
  }
}
