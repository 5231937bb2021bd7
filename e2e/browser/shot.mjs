// Opens pages in headless Chromium, waits for what must be there, and saves a
// picture of each. Exits 1 when something is missing or a page logs an error.
//
//   node shot.mjs plan.json
//
// The plan is {"pages": [{"url", "png", "steps": [{"click", "insert"}], "texts": [], "selectors": [], "absent": []}],
// "ignoreErrors": ["regexp"], "token": ""}. The result is printed as JSON:
// {"pages": [{"url", "title", "text", "errors": []}], "failures": []}.
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { chromium } from "playwright-core";

const pageTimeoutMs = 45_000;
const maxText = 20_000;

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
    for (const step of want.steps ?? []) {
      await page.locator(step.click).first().click({ timeout: pageTimeoutMs });
      if (step.insert) await page.keyboard.insertText(step.insert);
    }
    for (const selector of want.selectors ?? []) {
      await page.locator(selector).first().waitFor({ timeout: pageTimeoutMs });
    }
    for (const text of want.texts ?? []) {
      await page.getByText(text).first().waitFor({ timeout: pageTimeoutMs });
    }
  } catch (error) {
    result.failures.push(`${want.url}: ${error.message}`);
  }
  const text = (await page.locator("body").innerText()).slice(0, maxText);
  for (const unwanted of want.absent ?? []) {
    if (text.includes(unwanted)) result.failures.push(`${want.url}: shows "${unwanted}"`);
  }
  for (const error of errors) result.failures.push(`${want.url}: console error: ${error}`);
  await page.screenshot({ path: want.png, fullPage: true });
  result.pages.push({ url: want.url, title: await page.title(), text, errors });
  await page.close();
}

try {
  context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM_BIN ?? "/usr/bin/chromium",
    headless: true,
    args: flags,
    viewport: { width: 1280, height: 900 },
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
