// The parts of the page, put together.

import { HttpServer } from "../api/client";
import { words } from "../i18n/words.svelte";
import { setLabels } from "../text/markdown";
import { Catalogue } from "./catalogue.svelte";
import { Chat, type Parting } from "./chat.svelte";
import { History } from "./history.svelte";
import type { Keep } from "./keep";
import { sleep } from "./reply";
import { Settings, storage } from "./settings.svelte";
import { newId, type Mode } from "./values";

export type Panel = "settings" | "keys" | null;

export class App {
  readonly settings = new Settings(storage());
  readonly server = new HttpServer(() => this.settings.key);
  readonly catalogue = new Catalogue(this.server);
  readonly history: History;
  readonly chat: Chat;
  view = $state<"chat" | "swarm">("chat");
  panel = $state<Panel>(null);
  /** The history, where it lies over the chat. */
  drawer = $state(false);
  /** What a screen reader is told. */
  status = $state("");
  /** What stands in the composer. */
  draft = $state("");
  /** The message that is being changed. */
  editing = $state<string | null>(null);
  /** A question that must be answered before something cannot be undone. */
  question = $state.raw<{ text: string; yes: string; answer: (sure: boolean) => void } | null>(null);

  /** The first look at the models. */
  private readonly looked: Promise<void>;

  constructor(keep: Keep) {
    this.history = new History(keep);
    this.chat = new Chat({
      server: this.server,
      keep,
      tab: tab(),
      parting: { get: parting, set: (left) => stored("corolla.parting", JSON.stringify(left)) },
      now: () => performance.now(),
      pause: sleep,
      ready: () => this.looked,
      room: (model) => this.catalogue.room(model),
      // A search is not done anew with each word of a reply.
      kept: () => void (this.chat.busy && this.history.words ? undefined : this.history.look()),
      tell: (what) => (this.status = words.t(`status.${what}`)),
    });
    this.looked = this.catalogue.look().then(() => this.meet());
  }

  /** Shows what the address says: `#/swarm`, `#/chat/…`, or a new chat. */
  async follow(hash: string): Promise<void> {
    const [, view, id] = hash.split("/");
    this.view = view === "swarm" ? "swarm" : "chat";
    if (view === "swarm" || id === this.chat.talk.id) return;
    if (view !== "chat" || !id) {
      // The address of a new chat, gone back to.
      if (this.chat.talk.messages.length) this.fresh();
      return;
    }
    const talk = await this.history.load(id);
    if (talk) {
      this.chat.open(talk);
      this.meet();
    } else {
      this.fresh();
    }
  }

  /** Gives the chat a model that is served here. */
  meet(): void {
    const { chat, catalogue, settings } = this;
    if (!catalogue.list) return;
    const known = catalogue.known(chat.talk.model ?? settings.model);
    if (known !== chat.talk.model) chat.set({ model: known });
  }

  use(model: string): void {
    this.settings.model = model;
    this.settings.keep();
    this.chat.set({ model });
  }

  fresh(mode: Mode = "chat"): void {
    this.chat.fresh(this.catalogue.known(this.settings.model), mode);
    this.draft = mode === "raw" ? words.t("raw.example") : "";
    this.drawer = false;
    this.go("#/");
    this.status = words.t("status.new");
  }

  open(id: string): void {
    this.drawer = false;
    this.go(`#/chat/${id}`);
  }

  go(hash: string): void {
    if (location.hash !== hash) location.hash = hash;
    else void this.follow(hash);
  }

  say(text: string): void {
    if (!text.trim() || this.chat.busy) return;
    this.draft = "";
    this.chat.say(this.chat.talk.mode === "raw" ? text : text.trim());
    // The address is the conversation's from now on: a reload comes back to it.
    history.replaceState(null, "", `#/chat/${this.chat.talk.id}`);
    this.view = "chat";
  }

  /** Whether a person is sure. */
  ask(text: string, yes: string): Promise<boolean> {
    return new Promise((resolve) => {
      this.question = { text, yes, answer: (sure) => { this.question = null; resolve(sure); } };
    });
  }

  /** Changes what is kept of this page, and applies it. */
  async change(): Promise<void> {
    this.settings.keep();
    await this.apply();
  }

  /** Puts the colours and the language of the settings on the page. */
  async apply(): Promise<void> {
    const { theme, language } = this.settings;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    await words.speak(language, navigator.languages);
    setLabels({ copy: words.t("act.copy"), code: words.t("act.code") });
  }

  async remove(id: string): Promise<void> {
    if (id === this.chat.talk.id) this.fresh();
    await this.history.remove(id);
  }

  async rename(id: string, title: string): Promise<void> {
    if (id === this.chat.talk.id) this.chat.set({ title, named: true });
    else await this.history.rename(id, title);
  }
}

/** This tab's name. */
function tab(): string {
  const kept = stored("corolla.tab") ?? newId();
  stored("corolla.tab", kept);
  return kept;
}

function parting(): Parting | null {
  try {
    return JSON.parse(stored("corolla.parting") ?? "null") as Parting | null;
  } catch {
    return null;
  }
}

/** What this tab keeps over a reload, where the browser lets it; `value` is put in its place. */
function stored(key: string, value?: string): string | null {
  try {
    if (value !== undefined) sessionStorage.setItem(key, value);
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
}
