/** Consumer groups in the dashboard: how far they are, moved, paused and set. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { until } from "./node.mjs";
import { consumersOf, event, itemsOf, openStage, OUT } from "./stage.mjs";

const GROUPS = "/v1/topics/orders/groups";
let stage, node, api, page, complaints, go, readAs, readSome;

before(async () => {
  stage = await openStage();
  ({ node, api, page, complaints, go } = stage);
  ({ readAs, readSome } = consumersOf(api, GROUPS));
  await page.goto(node.link);
  await page.getByText("Live", { exact: true }).waitFor();
  await api.put("/v1/topics/orders", { partitions: 4 });
});

after(() => stage?.close());

describe("groups", () => {
  test("lag appears, is told with its trend, and drains", async () => {
    await api.post(GROUPS, { group: "workers", start_id: "$" });
    await api.produce("orders", Array.from({ length: 500 }, (_, n) => event({ n }, { partition_key: `user-${n}` })));
    await go("/groups");
    const row = page.getByRole("row", { name: /workers/ });
    await row.getByRole("cell", { name: "500", exact: true }).waitFor({ timeout: 20_000 });
    await go("/groups/orders/workers");
    await page.getByRole("heading", { name: "workers" }).waitFor();
    await api.post(`${GROUPS}/workers/ack`, { items: itemsOf(await readSome("workers", "c1", 500)) });
    await until(async () => (await page.locator(".facts dd").first().textContent()).trim() === "0");
    await page.getByRole("cell", { name: "c1" }).waitFor();
  });

  test("a reset is tried first, says what it would do, and is done when its name was typed", async () => {
    await go("/groups/orders/workers");
    await page.getByRole("button", { name: "Reset…" }).click();
    await page.getByRole("button", { name: "Show what would happen" }).click();
    await page.getByText(/events will be delivered again/).waitFor();
    await page.screenshot({ path: `${OUT}reset-light.png` });
    const before = (await api.get(`${GROUPS}/workers`)).lag;
    assert.equal(before, 0, "looking changes nothing");
    const button = page.getByRole("button", { name: "Reset the group" });
    assert.ok(await button.isDisabled());
    await page.getByLabel("Type workers to confirm").fill("workers");
    const total = Number(/(\d[\d,]*) events? will/.exec(await page.locator("dialog .note").textContent())[1].replace(",", ""));
    await button.click();
    await page.locator("dialog").waitFor({ state: "detached" });
    assert.equal((await api.get(`${GROUPS}/workers`)).lag, total);
  });

  test("a new one may be given settings", async () => {
    await go("/topics/orders/groups");
    await page.getByRole("button", { name: "New group" }).first().click();
    await page.getByLabel("Name", { exact: true }).fill("careful");
    await page.getByText("Settings, which have defaults").click();
    await page.getByLabel("Delivers an event").selectOption("persisted");
    await page.getByLabel("Deliveries at most").fill("3");
    await page.getByRole("button", { name: "Make it" }).click();
    await page.locator("dialog").waitFor({ state: "detached" });
    const made = await api.get(`${GROUPS}/careful`);
    assert.deepEqual([made.visibility, made.max_deliveries, made.claim_idle_ms], ["persisted", 3, null]);
  });

  test("one is paused, which every list shows, and resumed", async () => {
    await go("/groups/orders/workers");
    await page.getByRole("button", { name: "Pause", exact: true }).click();
    await page.getByText("Nothing is handed out").waitFor();
    assert.equal((await api.get(`${GROUPS}/workers`)).paused, true);
    assert.deepEqual(await readAs("workers", "c1"), []);
    for (const list of ["/groups", "/topics/orders/groups", "/"]) {
      await go(list);
      const row = page.getByRole("row", { name: /workers/ });
      await row.getByText("Paused", { exact: true }).waitFor();
      assert.equal(await page.getByText("Paused", { exact: true }).count(), 1, "the others are not");
    }
    await go("/groups/orders/workers");
    await page.getByRole("button", { name: "Resume", exact: true }).click();
    await page.getByRole("button", { name: "Pause", exact: true }).waitFor();
    assert.equal(await page.getByText("Nothing is handed out").count(), 0);
    assert.notEqual((await readAs("workers", "c1")).length, 0);
  });

  test("settings are changed where they were touched, and what the node refuses is told", async () => {
    await go("/groups/orders/workers/settings");
    await page.getByLabel("Deliveries at most").fill("7");
    await page.getByLabel("Held at most, seconds").fill("1.5");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Saved", { exact: true }).waitFor();
    const set = await api.get(`${GROUPS}/workers`);
    assert.deepEqual([set.max_deliveries, set.claim_idle_ms, set.dead_letter_topic], [7, 1500, "orders.dlq.workers"]);
    await page.getByLabel("Dead-letter topic").fill("no such name!");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByRole("alert").getByText(/dead_letter_topic/).waitFor();
    complaints.length = 0; // the browser itself notes every 422
    await page.getByLabel("Dead-letter topic").fill("morgue");
    await page.getByLabel("Held at most, seconds").fill("");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Saved", { exact: true }).waitFor();
    const then = await api.get(`${GROUPS}/workers`);
    assert.deepEqual([then.max_deliveries, then.claim_idle_ms, then.dead_letter_topic], [7, null, "morgue"]);
  });
});

test("nothing was complained about", () => assert.deepEqual(complaints, []));
