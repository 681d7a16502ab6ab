/** Every page and dialog with something in it: complete, legible for everybody, and quiet; a picture of each in out/. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { seriousFindings } from "./axe.mjs";
import { openBrowser, watchedPage } from "./chromium.mjs";
import { until } from "./node.mjs";
import { event, openStage, OUT } from "./stage.mjs";

const WIDE = { width: 1360, height: 900 };
const NARROW = { width: 420, height: 800 };
const GROUPS = "/v1/topics/orders/groups";

let stage, node, api;

/** Name of the picture: where, and what to do there first. */
const PAGES = {
  overview: { to: "/" },
  topics: { to: "/topics" },
  "topic-new": { to: "/topics", first: (page) => press(page, "New topic") },
  partitions: { to: "/topics/orders" },
  "topic-groups": { to: "/topics/orders/groups" },
  "group-new": {
    to: "/topics/orders/groups",
    async first(page) {
      await press(page, "New group");
      await page.getByText("Settings, which have defaults").click();
    },
  },
  browse: { to: "/topics/orders/browse", first: (page) => page.locator("tr.pick").first().click() },
  tail: {
    to: "/topics/orders/tail",
    async first(page) {
      await page.getByText("Listening").waitFor();
      await api.produce("orders", [event({ order_id: "o-7", amount: 12.34 }, { partition_key: "user-7" })]);
      await page.locator("tr.pick").first().click();
    },
  },
  produce: { to: "/topics/orders/produce" },
  settings: { to: "/topics/orders/settings" },
  groups: { to: "/groups" },
  group: { to: "/groups/orders/workers" },
  "group-paused": { to: "/groups/orders/resting" },
  reset: {
    to: "/groups/orders/workers",
    async first(page) {
      await press(page, "Reset…");
      await press(page, "Show what would happen");
      await page.getByText(/events will be delivered again/).waitFor();
    },
  },
  "group-delete": { to: "/groups/orders/workers", first: (page) => press(page, "Delete") },
  "group-settings": { to: "/groups/orders/billing/settings" },
  "dead-letters": { to: "/groups/orders/billing/dead-letters", first: (page) => page.locator("tr.pick").nth(1).waitFor() },
  "dead-letter": {
    to: "/groups/orders/billing/dead-letters",
    async first(page) {
      await page.getByLabel(/Also those that went back/).check();
      await page.getByLabel("Choose all that are shown").check();
      await page.locator("tr.pick", { hasText: "nacked" }).last().getByText("nacked").click();
      await page.getByLabel("Payload", { exact: true }).waitFor();
    },
  },
  "dead-letters-none": { to: "/groups/orders/workers/dead-letters", first: (page) => page.getByText("No dead letters").waitFor() },
  redrive: { to: "/groups/orders/billing/dead-letters", first: (page) => press(page, "Redrive all…") },
  replays: { to: "/replays" },
  "replay-new": { to: "/replays", first: (page) => press(page, "New replay") },
  cluster: { to: "/cluster" },
  "not-found": { to: "/nowhere" },
};

const press = (page, name) => page.getByRole("button", { name, exact: true }).first().click();

before(async () => {
  stage = await openStage();
  ({ node, api } = stage);
  await api.put("/v1/topics/orders", { partitions: 4 });
  await api.put("/v1/topics/invoices", { partitions: 1 });
  for (const group of ["workers", "resting", "billing"]) await api.post(GROUPS, { group, start_id: "0-0" });
  await api.patch(`${GROUPS}/resting`, { paused: true });
  await api.patch(`${GROUPS}/billing`, { max_deliveries: 1, claim_idle_ms: 500 });
  const orders = Array.from({ length: 60 }, (_, n) =>
    event({ order_id: `o-${n}`, amount: n * 1.25, items: ["book", "pen"] }, { partition_key: `user-${n}` }),
  );
  await api.produce("orders", orders);
  await api.post(`${GROUPS}/workers/read`, { consumer: "worker-1", count: 20, block_ms: 1000 });
  const { events } = await api.post(`${GROUPS}/billing/read`, { consumer: "billing-7f9c-a", count: 12, block_ms: 1000 });
  const items = events.map((one) => ({ partition: one.partition, redis_ids: [one.redis_id] }));
  await api.post(`${GROUPS}/billing/nack`, { items: items.slice(0, 9) }); // the rest is held until it times out
  const letters = async () => (await api.get(`${GROUPS}/billing/dead-letters`)).dead_letters;
  await until(async () => (await letters()).length === events.length);
  await api.post(`${GROUPS}/billing/dead-letters/redrive`, { to: "group", ids: [(await letters())[0].letter_id] });
  await api.post("/v1/topics/orders/replays", { target_topic: "orders-again", from_ms: 0, rate_per_s: 0.5 });
});

after(() => stage?.close());

describe("pages", () => {
  for (const theme of ["light", "dark"]) {
    for (const [width, size] of [["wide", WIDE], ["narrow", NARROW]]) {
      test(`are complete, legible for everybody and quiet, ${theme} and ${width}`, async () => {
        const browser = await openBrowser({ theme, ...size });
        try {
          const { page, complaints } = await watchedPage(browser.context);
          const look = async (name) => {
            await page.screenshot({ path: `${OUT}${name}-${width}-${theme}.png`, fullPage: await page.locator("dialog").isHidden() });
            assert.deepEqual(await seriousFindings(page), [], name);
            const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
            assert.ok(over <= 0, `${name} is ${over} px wider than the window`);
          };
          await page.goto(node.url);
          await page.getByLabel("Token", { exact: true }).waitFor();
          await look("sign-in");
          await page.goto(node.link);
          await page.getByText("Live", { exact: true }).waitFor();
          for (const [name, { to, first }] of Object.entries(PAGES)) {
            await page.goto("about:blank"); // what a page before this one left open is gone
            await page.goto(`${node.url}/#${to}`);
            await page.getByText("Live", { exact: true }).waitFor();
            await page.locator("main h1, main h2").first().waitFor();
            await page.waitForFunction(() => document.querySelector(".loading") === null);
            await first?.(page);
            await look(name);
          }
          assert.deepEqual(complaints, []);
        } finally {
          await browser.close();
        }
      });
    }
  }

  test("are usable by keyboard alone", async () => {
    const { page } = stage;
    await page.goto(node.link);
    await page.getByText("Live", { exact: true }).waitFor();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.getByRole("link", { name: "Topics", exact: true }).focus();
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Topics", level: 1 }).waitFor();
    await page.goto(`${node.url}/#/groups/orders/billing/dead-letters`);
    await page.locator("tr.pick").first().focus();
    await page.keyboard.press("Tab");
    await page.keyboard.press("Space");
    await page.getByRole("button", { name: "Redrive 1…" }).waitFor();
    await page.locator("tr.pick").first().focus();
    await page.keyboard.press("Enter");
    await page.getByLabel("Event", { exact: true }).waitFor();
  });
});
