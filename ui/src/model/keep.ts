// Where conversations are kept: IndexedDB, or the page's memory where a browser has none to give.

import { openDB, type DBSchema, type IDBPDatabase } from "idb";

import { headOf, type Head, type Talk } from "./values";

export interface Keep {
  /** Whether a reload finds what was kept. */
  readonly lasting: boolean;
  heads(): Promise<Head[]>;
  load(id: string): Promise<Talk | undefined>;
  save(talk: Talk): Promise<void>;
  remove(id: string): Promise<void>;
  clear(): Promise<void>;
  /** Those that have `words` in their title or in a message. */
  search(words: string): Promise<Head[]>;
}

interface Schema extends DBSchema {
  heads: { key: string; value: Head; indexes: { changed: number } };
  talks: { key: string; value: Talk };
}

export class IndexedKeep implements Keep {
  readonly lasting = true;

  private constructor(private readonly db: IDBPDatabase<Schema>) {}

  static async open(name = "corolla"): Promise<IndexedKeep> {
    const db = await openDB<Schema>(name, 1, {
      upgrade(fresh) {
        fresh.createObjectStore("heads", { keyPath: "id" }).createIndex("changed", "changed");
        fresh.createObjectStore("talks", { keyPath: "id" });
      },
      // Another tab has a newer page: let it.
      blocking: (_, __, event) => (event.target as IDBDatabase).close(),
    });
    return new IndexedKeep(db);
  }

  async heads(): Promise<Head[]> {
    return (await this.db.getAllFromIndex("heads", "changed")).reverse();
  }

  load(id: string): Promise<Talk | undefined> {
    return this.db.get("talks", id);
  }

  async save(talk: Talk): Promise<void> {
    const all = this.db.transaction(["heads", "talks"], "readwrite");
    await Promise.all([all.objectStore("heads").put(headOf(talk)), all.objectStore("talks").put(talk), all.done]);
  }

  async remove(id: string): Promise<void> {
    const all = this.db.transaction(["heads", "talks"], "readwrite");
    await Promise.all([all.objectStore("heads").delete(id), all.objectStore("talks").delete(id), all.done]);
  }

  async clear(): Promise<void> {
    const all = this.db.transaction(["heads", "talks"], "readwrite");
    await Promise.all([all.objectStore("heads").clear(), all.objectStore("talks").clear(), all.done]);
  }

  async search(words: string): Promise<Head[]> {
    const found = new Set<string>();
    for await (const cursor of this.db.transaction("talks").store) {
      if (has(cursor.value, words)) found.add(cursor.value.id);
    }
    return (await this.heads()).filter((head) => found.has(head.id));
  }
}

export class MemoryKeep implements Keep {
  readonly lasting = false;
  private readonly talks = new Map<string, Talk>();

  heads(): Promise<Head[]> {
    return Promise.resolve([...this.talks.values()].sort((one, other) => other.changed - one.changed).map(headOf));
  }

  load(id: string): Promise<Talk | undefined> {
    return Promise.resolve(this.talks.get(id));
  }

  save(talk: Talk): Promise<void> {
    this.talks.set(talk.id, talk);
    return Promise.resolve();
  }

  remove(id: string): Promise<void> {
    this.talks.delete(id);
    return Promise.resolve();
  }

  clear(): Promise<void> {
    this.talks.clear();
    return Promise.resolve();
  }

  async search(words: string): Promise<Head[]> {
    return (await this.heads()).filter((head) => has(this.talks.get(head.id), words));
  }
}

/** Private windows of some browsers have no IndexedDB. */
export async function openKeep(): Promise<Keep> {
  try {
    return await IndexedKeep.open();
  } catch {
    return new MemoryKeep();
  }
}

function has(talk: Talk | undefined, words: string): boolean {
  const wanted = words.toLowerCase();
  return !!talk && [talk.title, ...talk.messages.map((one) => one.text)].some((text) => text.toLowerCase().includes(wanted));
}
