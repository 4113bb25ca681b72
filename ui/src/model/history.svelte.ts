// The conversations that are kept: their list, and what is done with them.

import { read, toJson } from "./exchange";
import type { Keep } from "./keep";
import type { Head, Talk } from "./values";

export class History {
  heads = $state.raw<Head[]>([]);
  /** What is looked for; "" shows all. */
  words = $state("");
  private turn = 0;

  constructor(private readonly keep: Keep) {}

  get lasting(): boolean {
    return this.keep.lasting;
  }

  /** Looks again. Of several looks that overlap the last one counts. */
  async look(): Promise<void> {
    const mine = ++this.turn;
    const words = this.words.trim();
    const heads = words ? await this.keep.search(words) : await this.keep.heads();
    if (mine === this.turn) this.heads = heads;
  }

  async find(words: string): Promise<void> {
    this.words = words;
    await this.look();
  }

  load(id: string): Promise<Talk | undefined> {
    return this.keep.load(id);
  }

  async rename(id: string, title: string): Promise<void> {
    const talk = await this.keep.load(id);
    if (talk) await this.keep.save({ ...talk, title, named: true });
    await this.look();
  }

  async remove(id: string): Promise<void> {
    await this.keep.remove(id);
    await this.look();
  }

  async clear(): Promise<void> {
    await this.keep.clear();
    await this.look();
  }

  /** All conversations as one JSON text. */
  async all(): Promise<string> {
    const talks = await Promise.all((await this.keep.heads()).map((head) => this.keep.load(head.id)));
    return toJson(talks.filter((talk) => talk !== undefined));
  }

  /** Adds the conversations of a file; how many. Throws `BadFile`. */
  async take(text: string): Promise<Talk[]> {
    const talks = read(text, (await this.keep.heads()).map((head) => head.id));
    for (const talk of talks) await this.keep.save(talk);
    await this.look();
    return talks;
  }
}
