/** What every file of tests begins with: nodes of its own, a browser, and a page that is signed in. */

import { fileURLToPath } from "node:url";
import { openBrowser, watchedPage } from "./chromium.mjs";
import { apiOf, startNodes } from "./node.mjs";

export const OUT = fileURLToPath(new URL("./out/", import.meta.url));
/** Whoever may name something may name it like this. */
export const EVIL = `<img src=x onerror="alert(1)"><script>alert(2)</script>{{constructor.constructor('alert(3)')()}}`;

export const event = (payload, more = {}) => ({ event_type: "order.created", payload, ...more });

export async function openStage({ nodes = 1 } = {}) {
  const node = await startNodes(nodes);
  const browser = await openBrowser();
  const watched = await watchedPage(browser.context);
  const { page } = watched;
  return {
    ...watched,
    node,
    browser,
    api: apiOf(node),
    go: (to) => page.goto(`${node.url}/#${to}`),
    shown: (text) => page.getByText(text, { exact: false }).first().waitFor({ timeout: 20_000 }),
    async close() {
      await browser.close();
      await node.stop();
    },
  };
}

/** A topic's groups, as their consumers use them. */
export function consumersOf(api, groups) {
  const readAs = (group, consumer, count = 250) =>
    api.post(`${groups}/${group}/read`, { consumer, count, block_ms: 1000 }).then((answer) => answer.events);

  /** So many events, in as many reads as that takes. */
  async function readSome(group, consumer, wanted) {
    const events = [];
    while (events.length < wanted) events.push(...(await readAs(group, consumer)));
    return events;
  }

  return { readAs, readSome };
}

/** Events as acks and nacks name them. */
export function itemsOf(events) {
  const found = new Map();
  for (const one of events) found.set(one.partition, [...(found.get(one.partition) ?? []), one.redis_id]);
  return [...found].map(([partition, redis_ids]) => ({ partition, redis_ids }));
}
