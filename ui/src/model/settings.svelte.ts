// What a person set for this page, kept in the browser.

const KEPT = "corolla.settings";

export type Theme = "system" | "light" | "dark";

export class Settings {
  theme = $state<Theme>("system");
  /** A language's code; "" follows the browser. */
  language = $state("");
  /** Whether the history stands beside the chat on a wide screen. */
  aside = $state(true);
  /** The API key, where the server asks for one. */
  key = $state("");
  model = $state<string | null>(null);

  constructor(private readonly storage: Pick<Storage, "getItem" | "setItem"> | null) {
    try {
      const kept = JSON.parse(storage?.getItem(KEPT) ?? "{}") as Record<string, unknown>;
      if (kept.theme === "light" || kept.theme === "dark") this.theme = kept.theme;
      if (typeof kept.language === "string") this.language = kept.language;
      if (typeof kept.aside === "boolean") this.aside = kept.aside;
      if (typeof kept.key === "string") this.key = kept.key;
      if (typeof kept.model === "string") this.model = kept.model;
    } catch {
      // What cannot be read is set anew.
    }
  }

  keep(): void {
    const { theme, language, aside, key, model } = this;
    try {
      this.storage?.setItem(KEPT, JSON.stringify({ theme, language, aside, key, model }));
    } catch {
      // Private windows may refuse; then the settings last as long as the page.
    }
  }
}

/** The browser's storage, where it has one to give. */
export function storage(): Storage | null {
  try {
    return localStorage;
  } catch {
    return null;
  }
}
