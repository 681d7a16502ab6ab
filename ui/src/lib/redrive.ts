/** Sending dead letters back: request after request, until all went, somebody stops it, or the node refuses. */

import { Problem } from "../api/problem";
import type { RedriveAnswer } from "../api/types";

export type To = "group" | "topic";

/** Those that were chosen, or all from a place on. */
export type Wish = { ids: string[] } | { from: string | null };

export type RedriveBody = { to: To } & ({ ids: string[] } | { all: true; from_id?: string });

export interface Tally {
  redriven: number;
  already: number;
  unknown: number;
  /** Requests that broke off. What they had sent by then is counted as `already` when they are repeated. */
  failed: number;
}

/** Ids of one request: few, so that a stop is heard soon and a tally moves. */
export const CHUNK = 100;
/** In a row, of a node that asks to wait. */
export const PATIENCE = 5;
const LONGEST_WAIT_MS = 5_000;

export class Redrive {
  readonly tally: Tally = { redriven: 0, already: 0, unknown: 0, failed: 0 };
  private left: Wish;
  private over = false;

  constructor(
    private readonly to: To,
    wish: Wish,
  ) {
    this.left = wish;
  }

  get done(): boolean {
    return this.over;
  }

  /** Goes on where the last run ended. Throws what the node says when it keeps refusing; then `run` may be tried again. */
  async run(
    ask: (body: RedriveBody) => Promise<RedriveAnswer>,
    told: (tally: Tally) => void,
    stopped: () => boolean,
    wait: (ms: number) => Promise<void> = (ms) => new Promise((go) => setTimeout(go, ms)),
  ): Promise<void> {
    let refusals = 0;
    while (!this.over && !stopped()) {
      try {
        this.take(await ask(this.body()));
        refusals = 0;
      } catch (error) {
        this.tally.failed += 1;
        const busy = error instanceof Problem && (error.status === 429 || error.status === 503);
        if (!busy || ++refusals >= PATIENCE) throw error;
        await wait(Math.min(LONGEST_WAIT_MS, error.retryAfterMs ?? 1_000));
      }
      told({ ...this.tally });
    }
  }

  private body(): RedriveBody {
    if ("ids" in this.left) return { to: this.to, ids: this.left.ids.slice(0, CHUNK) };
    return { to: this.to, all: true, ...(this.left.from === null ? {} : { from_id: this.left.from }) };
  }

  private take(answer: RedriveAnswer): void {
    this.tally.redriven += answer.redriven;
    this.tally.already += answer.already;
    this.tally.unknown += answer.unknown.length;
    if ("ids" in this.left) {
      this.left = { ids: this.left.ids.slice(CHUNK) };
      this.over = this.left.ids.length === 0;
    } else {
      this.left = { from: answer.next_id };
      this.over = answer.next_id === null;
    }
  }
}
