/** What a group gave up on, in the dashboard: listed as text, led back to where it stood, and sent back. */

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { watchedPage } from "./chromium.mjs";
import { until } from "./node.mjs";
import { consumersOf, event, EVIL, itemsOf, openStage, OUT } from "./stage.mjs";

const GROUPS = "/v1/topics/orders/groups";
let stage, node, api, browser, page, complaints, go, shown, readAs, readSome;

before(async () => {
  stage = await openStage();
  ({ node, api, browser, page, complaints, go, shown } = stage);
  ({ readAs, readSome } = consumersOf(api, GROUPS));
  await page.goto(node.link);
  await page.getByText("Live", { exact: true }).waitFor();
  await api.put("/v1/topics/orders", { partitions: 4 });
});

after(() => stage?.close());

describe("dead letters", () => {
  const rows = () => page.locator("tr.pick");
  const payload = (text) => page.getByRole("row", { name: text });

  test("are explained while there are none", async () => {
    await api.post(GROUPS, { group: "billing", start_id: "$" });
    await api.post(GROUPS, { group: "mail", start_id: "$" });
    await go("/groups/orders/billing/dead-letters");
    await page.getByText("No dead letters").waitFor();
    await shown("This group sets no limit");
    assert.ok(await page.getByRole("button", { name: "Redrive all…" }).isDisabled());
    await page.getByRole("link", { name: "Set a limit" }).click();
    await page.getByLabel("Deliveries at most").fill("1");
    await page.getByRole("button", { name: "Save" }).click();
    await page.getByText("Saved", { exact: true }).waitFor();
    await page.getByRole("link", { name: "Dead letters" }).click();
    await page.getByText(/handed out 1 time and was not acked/).waitFor();
  });

  test("are listed with their reason, and are text whatever they hold", async () => {
    await api.produce("orders", [
      event({ html: EVIL }, { event_type: EVIL, partition_key: EVIL, headers: { "<b>h</b>": EVIL } }),
      event({ text: "x".repeat(50_000) }),
      event({ name: "plain" }),
    ]);
    await api.post(`${GROUPS}/billing/nack`, { items: itemsOf(await readSome("billing", EVIL, 3)) });
    await until(async () => {
      if ((await rows().count()) === 3) return true;
      await page.getByRole("button", { name: "Refresh" }).click();
      return false;
    });
    assert.equal(await page.getByRole("cell", { name: "nacked" }).count(), 3);
    await payload(/html/).getByText("nacked").click();
    const detail = page.getByLabel("Event", { exact: true });
    assert.match(await detail.textContent(), /Last consumer<img src=x onerror=/);
    assert.match(await page.getByLabel("Payload", { exact: true }).textContent(), /<script>alert\(2\)<\/script>/);
    await page.screenshot({ path: `${OUT}dead-letter-injection.png` });
    assert.equal(await page.locator("img, main script").count(), 0);
  });

  test("of much content are cut until all of it is wanted", async () => {
    await payload(/xxxx/).getByText("nacked", { exact: true }).click();
    const text = page.getByLabel("Payload", { exact: true });
    await until(async () => /xxxx/.test(await text.textContent()));
    assert.ok((await text.textContent()).length < 5_000);
    await page.getByRole("button", { name: /^Load all/ }).click();
    await until(async () => (await text.textContent()).length > 50_000);
  });

  test("lead to where the original stands", async () => {
    const [letter] = (await api.get(`${GROUPS}/billing/dead-letters`)).dead_letters.filter((one) => one.payload.name);
    await page.getByRole("button", { name: "Close the event" }).click();
    await payload(/plain/).getByRole("link").click();
    await page.getByLabel("Event", { exact: true }).waitFor();
    assert.match(page.url(), /topics\/orders\/browse\?/);
    const detail = await page.getByLabel("Event", { exact: true }).textContent();
    assert.ok(detail.includes(letter.origin.redis_id) && detail.includes('"plain"'), detail);
    await go(`/topics/orders/browse?partition=${letter.origin.partition}&id=1-0`);
    await page.getByText("That event is not kept any more").waitFor();
  });

  test("go back one by one to their group alone, and the result says so", async () => {
    await go("/groups/orders/billing/dead-letters");
    await payload(/plain/).getByRole("checkbox").check();
    await page.getByRole("button", { name: "Redrive 1…" }).click();
    await page.getByText("1 event will be appended to orders again").waitFor();
    await page.getByText("Every other group passes over them.").waitFor();
    await page.screenshot({ path: `${OUT}redrive-chosen.png` });
    assert.equal((await readSome("mail", "m1", 3)).length, 3);
    await page.getByRole("button", { name: "Send 1 event back" }).click();
    await page.getByText("1 event went back to billing").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).last().click();
    await until(async () => (await rows().count()) === 2);
    const [again, ...more] = await readAs("billing", "b1");
    assert.deepEqual([again.payload, again.deliveries, more.length], [{ name: "plain" }, 1, 0]);
    await api.post(`${GROUPS}/billing/ack`, { items: itemsOf([again]) });
    assert.deepEqual(await readAs("mail", "m1"), []);
  });

  test("go back all at once to every group, and are not sent again", async () => {
    await page.getByRole("button", { name: "Redrive all…" }).click();
    await page.getByLabel("Every group of orders").check();
    await page.getByText(/mail.* will get them too/).waitFor();
    await page.getByRole("button", { name: "Send all back" }).click();
    await page.getByText("2 events went back to every group of orders").waitFor();
    await page.getByText("1 had gone back before").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).last().click();
    await page.getByText("All 3 dead letters of this group went back").waitFor();
    await page.getByRole("button", { name: "Show them" }).click();
    await until(async () => (await page.getByRole("cell", { name: "went back" }).count()) === 3);
    assert.ok(await rows().first().getByRole("checkbox").isDisabled());
    assert.ok(await page.getByRole("button", { name: "Redrive all…" }).isDisabled());
    assert.equal((await readSome("mail", "m1", 2)).length, 2);
  });

  test("that are many come page by page, and all of them can be chosen", async () => {
    await api.post(GROUPS, { group: "bulk", start_id: "$", max_deliveries: 1 });
    await api.produce("orders", Array.from({ length: 250 }, (_, n) => event({ n }, { partition_key: `user-${n}` })));
    await api.post(`${GROUPS}/bulk/nack`, { items: itemsOf(await readSome("bulk", "b1", 250)) });
    await until(async () => (await api.get(`${GROUPS}/bulk/dead-letters?limit=1000`)).dead_letters.length === 250);
    await go("/groups/orders/bulk/dead-letters");
    await page.getByText("100 dead letters", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Load more" }).click();
    await page.getByText("200 dead letters", { exact: true }).waitFor();
    await page.getByRole("button", { name: "Load more" }).click();
    await page.getByText("250 dead letters, and that is all").waitFor();
    await page.getByLabel("Choose all that are shown").check();
    await page.getByRole("button", { name: "Redrive 250…" }).click();
    await page.getByRole("button", { name: "Send 250 events back" }).click();
    await page.getByText("250 events went back to bulk").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).last().click();
    await page.getByText("All 250 dead letters of this group went back").waitFor();
    assert.equal((await api.get(`${GROUPS}/bulk`)).lag, 250);
  });

  test("going back can be stopped and gone on with from there", async () => {
    // A node that never comes to the end of one request: its answers are made up, to hold them as long as we like.
    await api.post(GROUPS, { group: "slow", start_id: "0-0", max_deliveries: 1 });
    await api.post(`${GROUPS}/slow/nack`, { items: itemsOf(await readAs("slow", "s1", 1)) });
    await until(async () => (await api.get(`${GROUPS}/slow/dead-letters`)).dead_letters.length === 1);
    const asked = [];
    let answer;
    const answered = () => new Promise((go) => (answer = go));
    let held = Promise.resolve();
    await page.route("**/dead-letters/redrive", async (route) => {
      asked.push(route.request().postDataJSON());
      await held;
      const next_id = asked.length < 3 ? `p0@${asked.length}-0` : null;
      held = asked.length === 1 ? answered() : Promise.resolve();
      await route.fulfill({ json: { redriven: 10, already: 0, unknown: [], next_id } });
    });
    await go("/groups/orders/slow/dead-letters");
    await page.getByRole("button", { name: "Redrive all…" }).click();
    await page.getByRole("button", { name: "Send all back" }).click();
    await page.getByText("10 events went back").waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await page.getByText("Stopping after the request that is on its way").waitFor();
    await until(() => answer !== undefined);
    answer();
    await page.getByText("20 events went back").waitFor();
    await page.getByText("Stopped before the end").waitFor();
    assert.equal(asked.length, 2);
    await page.getByRole("button", { name: "Go on" }).click();
    await page.getByText("30 events went back").waitFor();
    await page.getByText("Stopped before the end").waitFor({ state: "detached" });
    assert.deepEqual(asked.map((one) => one.from_id ?? null), [null, "p0@1-0", "p0@2-0"]);
    await page.unroute("**/dead-letters/redrive");
    await page.getByRole("button", { name: "Close", exact: true }).last().click();
  });

  test("that the node will not send back now stay, with its reason", async () => {
    const refusal = { type: "/problems/topic-full", title: "Overloaded", detail: "the topic is full", retry_after_ms: 1 };
    await page.route("**/dead-letters/redrive", (route) =>
      route.fulfill({ status: 429, contentType: "application/problem+json", body: JSON.stringify(refusal) }),
    );
    await page.getByRole("button", { name: "Redrive all…" }).click();
    await page.getByRole("button", { name: "Send all back" }).click();
    await page.getByRole("alert").getByText("the topic is full").waitFor();
    await page.unroute("**/dead-letters/redrive");
    complaints.length = 0; // the browser itself notes every 429
    await page.getByRole("button", { name: "Go on" }).click();
    await page.getByText("1 event went back to slow").waitFor();
    await page.getByText("5 requests broke off").waitFor();
    await page.getByRole("button", { name: "Close", exact: true }).last().click();
  });
});

describe("who may do what", () => {
  test("a consumer sees dead letters and settings, and changes nothing", async () => {
    const other = await watchedPage(browser.context);
    await other.page.goto(await api.linkFor("consumer"));
    await other.page.goto(`${node.url}/#/groups/orders/billing/dead-letters`);
    await other.page.getByText("Redriving takes a token with the role admin").waitFor();
    for (const name of ["Pause", "Reset…", "Delete", "Redrive chosen…", "Redrive all…"]) {
      assert.ok(await other.page.getByRole("button", { name, exact: true }).isDisabled(), name);
    }
    await other.page.getByLabel(/Also those that went back/).check();
    await other.page.locator("tr.pick").first().waitFor();
    assert.equal(await other.page.locator("tr.pick").first().getByRole("checkbox").count(), 0);
    await other.page.getByRole("link", { name: "Settings" }).click();
    await other.page.getByText("Changing these takes a token with the role admin").waitFor();
    assert.ok(await other.page.getByLabel("Deliveries at most").isDisabled());
    assert.deepEqual(other.complaints, []);
    await other.page.close();
  });

  test("a producer is told that it may not look", async () => {
    const other = await watchedPage(browser.context);
    await other.page.goto(await api.linkFor("producer"));
    await other.page.goto(`${node.url}/#/groups/orders/billing`);
    await other.page.getByRole("alert").getByText("Sign in with a token whose role and topics allow it").waitFor();
    await other.page.close();
  });

  test("and nothing else was complained about", () => assert.deepEqual(complaints, []));
});
