// The models of the server and the swarms behind them, looked at again while it matters.

import { ApiError, type ModelInfo, type ModelList, type ModelSwarm, type Server } from "../api/client";
import { room } from "./window";

export class Catalogue {
  list = $state.raw<ModelList | null>(null);
  swarms = $state.raw<ModelSwarm[] | null>(null);
  /** Why the models, or the swarms, are not known. */
  fault = $state.raw<ApiError | null>(null);
  swarmFault = $state.raw<ApiError | null>(null);

  constructor(private readonly server: Server) {}

  get models(): ModelInfo[] {
    return this.list?.models ?? [];
  }

  find(id: string | null): ModelInfo | undefined {
    return this.models.find((one) => one.id === id);
  }

  /** `id` where it is served here, else the default model. */
  known(id: string | null): string | null {
    return (this.find(id) ?? this.models.find((one) => one.default))?.id ?? null;
  }

  room(id: string | null): number {
    return room(this.find(this.known(id))?.context_length, this.list?.sessions.max_length ?? Infinity);
  }

  swarm(id: string | null): ModelSwarm | undefined {
    return this.swarms?.find((one) => one.model === id);
  }

  /** The name that a server's operator gave it, or the end of its id. */
  nameOf(peer: string): string {
    const server = this.swarms?.flatMap((one) => one.servers).find((one) => one.peer === peer);
    return server?.name ?? `…${peer.slice(-8)}`;
  }

  async look(): Promise<void> {
    this.fault = await faultOf(this.server.models(), (list) => (this.list = list));
  }

  async lookAtSwarms(): Promise<void> {
    this.swarmFault = await faultOf(this.server.swarm(), (swarms) => (this.swarms = swarms));
  }
}

/** Gives `take` what was `asked` for; why it did not come, or `null`. */
async function faultOf<T>(asked: Promise<T>, take: (answer: T) => void): Promise<ApiError | null> {
  try {
    take(await asked);
    return null;
  } catch (error) {
    return error instanceof ApiError ? error : new ApiError("page", String(error));
  }
}
