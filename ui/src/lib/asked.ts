/** Something asked of the node, and asked again: the last answer stays while the next one is on its way. */

import { onBeforeUnmount, ref, shallowRef, type Ref, type ShallowRef } from "vue";
import { type Problem, problemOf } from "../api/problem";

export interface Asked<T> {
  data: ShallowRef<T | null>;
  problem: ShallowRef<Problem | null>;
  busy: Ref<boolean>;
  refresh: () => Promise<void>;
}

/** Ask now, and every `everyMs` where given, as long as the component lives. */
export function useAsked<T>(ask: (signal: AbortSignal) => Promise<T>, everyMs: number | null = null): Asked<T> {
  const data = shallowRef<T | null>(null);
  const problem = shallowRef<Problem | null>(null);
  const busy = ref(false);
  let gone = false;
  let turn = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let current: AbortController | null = null;

  async function refresh(): Promise<void> {
    const mine = ++turn;
    clearTimeout(timer);
    current?.abort();
    current = new AbortController();
    busy.value = true;
    try {
      const found = await ask(current.signal);
      if (mine !== turn || gone) return;
      data.value = found;
      problem.value = null;
    } catch (error) {
      if (mine !== turn || gone) return;
      problem.value = problemOf(error);
    }
    busy.value = false;
    // What is gone is not asked for again; a hidden page rests.
    const over = problem.value !== null && problem.value.status >= 400 && problem.value.status < 429;
    if (everyMs !== null && !over) timer = setTimeout(tick, everyMs);
  }

  function tick(): void {
    if (document.hidden) timer = setTimeout(tick, everyMs ?? 1_000);
    else void refresh();
  }

  void refresh();
  onBeforeUnmount(() => {
    gone = true;
    clearTimeout(timer);
    current?.abort();
  });
  return { data, problem, busy, refresh };
}

export interface Doing<A extends unknown[]> {
  busy: Ref<boolean>;
  problem: ShallowRef<Problem | null>;
  run: (...args: A) => Promise<boolean>;
}

/** Something done once on request: busy while it is done, with the problem it ended in. */
export function useDoing<A extends unknown[]>(act: (...args: A) => Promise<void>): Doing<A> {
  const busy = ref(false);
  const problem = shallowRef<Problem | null>(null);
  async function run(...args: A): Promise<boolean> {
    if (busy.value) return false;
    busy.value = true;
    problem.value = null;
    try {
      await act(...args);
      return true;
    } catch (error) {
      problem.value = problemOf(error);
      return false;
    } finally {
      busy.value = false;
    }
  }
  return { busy, problem, run };
}
