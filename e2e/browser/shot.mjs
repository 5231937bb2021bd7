// Opens pages in headless Chromium, waits for what must be there, and saves a
// picture of each. Exits 1 when something is missing or a page logs an error.
//
//   node shot.mjs plan.json
//
// The plan is {"pages": [{"url", "png", "steps": [{"click", "insert", "post", "body"}], "texts": [], "selectors": [],
// "absent": [], "axe"}], "ignoreErrors": ["regexp"], "token": ""}. The result is printed as JSON:
// {"pages": [{"url", "title", "text", "errors": [], "paintMs"}], "failures": []}.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { createRequire } from "node:module";
import { join } from "node:path";
import { chromium } from "playwright-core";

const pageTimeoutMs = 45_000;
const maxText = 20_000;
const usual = { width: 1280, height: 900 };
const narrow = { width: 375, height: 800 };
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

// What a fresh browser would do on its own is switched off: it is not what is
// tested, and no network but the loopback may be there.
const flags = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-dev-shm-usage",
];

const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
const ignored = (plan.ignoreErrors ?? []).map((pattern) => new RegExp(pattern));
const result = { pages: [], failures: [] };
const profile = mkdtempSync(join(tmpdir(), "gov-browser-"));
let context;

// step does one thing on a page: it clicks and inserts text, or sends a document to an
// address while the page is open.
async function step(page, want) {
  if (want.post) {
    const answer = await context.request.post(want.post, { data: want.body, headers: { "Content-Type": "application/json" } });
    if (!answer.ok()) throw new Error(`POST ${want.post}: ${answer.status()} ${await answer.text()}`);
    return;
  }
  await page.locator(want.click).first().click({ timeout: pageTimeoutMs });
  if (want.insert) await page.keyboard.insertText(want.insert);
}

// judge finds what keeps people from using a page: serious faults of accessibility, and
// on a narrow, dark screen bad contrast and a page that is wider than its window. Of that
// screen it takes a picture of its own.
async function judge(page, want) {
  if (!want.axe) return;
  await page.evaluate(axe);
  await look(page, want, "", {});
  await page.setViewportSize(narrow);
  await page.emulateMedia({ colorScheme: "dark" });
  await look(page, want, ", narrow and dark", { runOnly: ["color-contrast", "scrollable-region-focusable"] });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) result.failures.push(`${want.url}: is ${wide} px wider than its window of ${narrow.width} px`);
  await page.screenshot({ path: want.png.replace(/\.png$/, "-narrow.png"), fullPage: true });
  await page.setViewportSize(usual);
  await page.emulateMedia({ colorScheme: "light" });
}

// look has axe-core look at a page as it is shown now.
async function look(page, want, how, options) {
  const { violations } = await page.evaluate((o) => window.axe.run({ resultTypes: ["violations"], ...o }), options);
  for (const found of violations.filter(({ impact }) => impact === "serious" || impact === "critical")) {
    const where = found.nodes.slice(0, 3).map(({ html }) => html.slice(0, 160));
    result.failures.push(`${want.url}${how}: axe: ${found.id}: ${found.help}: ${where.join(" | ")}`);
  }
}

// visit opens one page, waits for all that it must show and takes a picture,
// also of a page that fails: that picture says more than the failure.
async function visit(want) {
  const page = await context.newPage();
  const errors = [];
  const note = (text) => {
    if (!ignored.some((pattern) => pattern.test(text))) errors.push(text);
  };
  page.on("console", (message) => {
    if (message.type() === "error") note(`${message.text()} (${message.location().url})`);
  });
  page.on("pageerror", (error) => note(String(error)));
  if (plan.token) {
    await page.addInitScript((token) => localStorage.setItem("nomadTokenSecret", JSON.stringify(token)), plan.token);
  }
  try {
    await page.goto(want.url, { timeout: pageTimeoutMs, waitUntil: "domcontentloaded" });
    for (const one of want.steps ?? []) await step(page, one);
    for (const selector of want.selectors ?? []) {
      await page.locator(selector).first().waitFor({ timeout: pageTimeoutMs });
    }
    for (const text of want.texts ?? []) {
      await page.getByText(text).first().waitFor({ timeout: pageTimeoutMs });
    }
    await judge(page, want);
  } catch (error) {
    result.failures.push(`${want.url}: ${error.message}`);
  }
  const text = (await page.locator("body").innerText()).slice(0, maxText);
  for (const unwanted of want.absent ?? []) {
    if (text.includes(unwanted)) result.failures.push(`${want.url}: shows "${unwanted}"`);
  }
  for (const error of errors) result.failures.push(`${want.url}: console error: ${error}`);
  await page.screenshot({ path: want.png, fullPage: true });
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? 0);
  result.pages.push({ url: want.url, title: await page.title(), text, errors, paintMs: Math.round(paint) });
  await page.close();
}

try {
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM_BIN ?? "/usr/bin/chromium",
    headless: true,
    args: flags,
    viewport: usual,
  });
  for (const want of plan.pages) await visit(want);
} catch (error) {
  result.failures.push(String(error));
} finally {
  await context?.close();
  rmSync(profile, { recursive: true, force: true });
}
console.log(JSON.stringify(result));
process.exitCode = result.failures.length === 0 ? 0 : 1;
