// The page's words in the reader's language. English is there from the start, others come when they are asked for.

import { en, type Dictionary, type Key } from "./en";

/** The languages there are, by their codes, with their own names. */
export const LANGUAGES: Record<string, string> = { en: "English", de: "Deutsch" };

const LOADERS: Record<string, () => Promise<Dictionary>> = {
  en: () => Promise.resolve(en),
  de: () => import("./de").then((found) => found.de),
};

export type Values = Record<string, string | number>;

class Words {
  language = $state("en");
  private dictionary = $state.raw<Dictionary>(en);

  /** Speaks `wanted`, or the first of the browser's languages that there is. */
  async speak(wanted: string, preferred: readonly string[]): Promise<void> {
    const codes = [wanted, ...preferred].map((code) => code.split("-")[0]);
    const language = codes.find((code) => code in LOADERS) ?? "en";
    this.dictionary = await LOADERS[language]();
    this.language = language;
    document.documentElement.lang = language;
  }

  t(key: Key, values: Values = {}): string {
    return fill(this.dictionary[key], values, (value) => this.number(value));
  }

  has(key: string): key is Key {
    return key in en;
  }

  number(value: number, digits = 0): string {
    return new Intl.NumberFormat(this.language, { maximumFractionDigits: digits, minimumFractionDigits: digits }).format(value);
  }

  /** A rate or a duration: with a decimal where it is small. */
  small(value: number): string {
    return this.number(value, value < 10 ? 1 : 0);
  }
}

/** `text` with its values in place. */
export function fill(text: string, values: Values, number: (value: number) => string = String): string {
  const forms = text.split("|");
  const form = forms.length > 1 && values.n !== 1 ? forms[1] : forms[0];
  return form.replace(/\{(\w+)\}/g, (all, name: string) => {
    const value = values[name];
    return value === undefined ? all : typeof value === "number" ? number(value) : value;
  });
}

export const words = new Words();
