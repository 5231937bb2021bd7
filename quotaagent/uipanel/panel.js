// Governor's panel on the job, allocation and task pages of Nomad's UI. It adds one
// element to a page and asks the agent behind the same address for what it shows. On any
// failure it takes itself away and says nothing: plain Nomad UI is left.
"use strict";

(() => {
  const every = 4_000; // ms between two looks at a page that is seen
  const patience = 8_000; // ms for an answer
  const slowest = 60_000; // ms between two looks where there is nothing to show
  const settle = 120; // ms from a change of the page to a look at it
  const rootURL = "/ui/";
  const stylePath = "/governor/panel.css";

  // ---- where we are ----------------------------------------------------------------

  // decode is a part of a path as text; null where it is none.
  function decode(part) {
    try {
      return decodeURIComponent(part);
    } catch {
      return null;
    }
  }

  // stored is what Nomad's UI keeps in the browser. Some versions keep JSON.
  function stored(name) {
    try {
      const text = localStorage.getItem(name);
      if (text === null || text === "null") return "";
      return text.startsWith('"') ? String(JSON.parse(text)) : text;
    } catch {
      return "";
    }
  }

  // question is what to ask the agent about the page at an address; "" for pages without
  // a panel. Routes are Nomad's: jobs/<job>@<namespace>, allocations/<id>[/<task>].
  function question(address) {
    let path = address.pathname.startsWith(rootURL) ? address.pathname.slice(rootURL.length) : "";
    let query = address.search;
    if (address.hash.startsWith("#/")) {
      [path, query] = (address.hash.slice(2) + "?").split("?", 2);
    }
    const parts = path.split("/").filter((part) => part !== "").map(decode);
    if (parts.includes(null)) return "";
    const given = new URLSearchParams(query);
    const region = given.get("region") || stored("nomadActiveRegion");
    const ask = (what, parameters) => {
      const asked = new URLSearchParams(parameters);
      if (region) asked.set("region", region);
      return `/governor/v1/panel/${what}?${asked}`;
    };
    if (parts[0] === "jobs" && parts.length === 2 && parts[1] !== "run") {
      const at = parts[1].lastIndexOf("@");
      const job = at < 0 ? parts[1] : parts[1].slice(0, at);
      const namespace = at < 0 ? given.get("namespace") || "default" : parts[1].slice(at + 1);
      return job === "" || namespace === "" || namespace === "*" ? "" : ask("job", { job, namespace });
    }
    if (parts[0] === "allocations" && /^[0-9a-f-]{36}$/.test(parts[1] ?? "")) {
      if (parts.length === 2) return ask("allocation", { id: parts[1] });
      if (parts.length === 3 && parts[2] !== "fs") return ask("allocation", { id: parts[1], task: parts[2] });
    }
    return "";
  }

  // anchor is the element behind which the panel belongs: the details at the top of
  // Nomad's page. null while the page is not there.
  function anchor() {
    return document.querySelector("section.section > .boxed-section.is-small > .inline-definitions")?.parentElement ?? null;
  }

  // ---- elements ----------------------------------------------------------------------

  // el makes an element. Everything that comes from elsewhere goes through here, as text.
  function el(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : String(value));
    }
    for (const child of children.flat()) {
      if (child !== null && child !== undefined) made.append(child);
    }
    return made;
  }

  function table(caption, columns, rows) {
    return el(
      "div",
      { class: "governor-scroll", role: "region", tabindex: 0, "aria-label": caption },
      el(
        "table",
        { class: "governor-table" },
        el("caption", { class: "governor-hidden" }, caption),
        el("thead", {}, el("tr", {}, columns.map((column) => el("th", { scope: "col" }, column)))),
        el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((cell, i) => el(i === 0 ? "th" : "td", i === 0 ? { scope: "row" } : {}, cell))))),
      ),
    );
  }

  // share is a part of something, as a bar and in words.
  function share(value, of, words, what) {
    if (value === undefined) return "–";
    if (!of) return words;
    return el("span", { class: "governor-share" }, el("meter", { min: 0, max: of, value, "aria-label": `${what}: ${words}` }), words);
  }

  const gibibytes = (mebibytes) => (mebibytes / 1024).toFixed(1);

  function memory(used, total) {
    return share(used, total, total ? `${gibibytes(used)} / ${gibibytes(total)} GiB` : `${gibibytes(used)} GiB`, "Memory in use");
  }

  const time = (text) => {
    const at = new Date(text);
    return el("time", { datetime: text, title: text }, at.toLocaleString([], { dateStyle: "medium", timeStyle: "short" }));
  };

  const gigabytes = (megabytes) => `${Math.round(megabytes / 1000)} GB/s`;

  // ---- what is shown -------------------------------------------------------------------

  const states = {
    waiting: "Waiting for budget", admitted: "Admitted, nothing runs yet", running: "Running", ending: "Being ended by policy",
    ended: "Ended", unknown: "Not governed",
  };

  function facts({ job }) {
    const list = el("dl", { class: "governor-facts" });
    const add = (name, ...value) => list.append(el("div", {}, el("dt", {}, name), el("dd", {}, ...value)));
    add("Governor", el("span", { class: `governor-state governor-${job.state}` }, states[job.state] ?? job.state));
    if (job.budget) add("Budget", job.budget);
    if (job.queue) {
      add("Queue", `${job.queue.position} of ${job.queue.of}`);
      add("Waiting since", time(job.queue.since));
      add("Expected", job.queue.expected ? time(job.queue.expected) : "not known");
    }
    if (job.decision) add("Decision", `${job.decision.outcome} (${job.decision.reason}), `, time(job.decision.at));
    if (job.receipt) {
      add("Receipt", job.receipt.stopped ? `${job.receipt.outcome}, ended by policy (${job.receipt.stopped}), ` : `${job.receipt.outcome}, `, time(job.receipt.ended));
      if (job.receipt.idle) add("Held but idle", job.receipt.idle);
    }
    return list;
  }

  // why says why a job waits or is ended, in the lines of the agent.
  function why({ job }) {
    return job.text && ["waiting", "ending"].includes(job.state) ? el("pre", { class: "governor-why" }, job.text) : null;
  }

  function account({ job }) {
    if (job.account.length === 0) return null;
    const last = job.receipt ? "Given back" : job.queue ? "Held now" : "Still held";
    return table("Budget of the job", ["Job", "At most", "Used", last], job.account.map((a) => [a.name, a.admitted, a.used, a.held]));
  }

  function devices({ allocation }) {
    if (!allocation || allocation.devices.length === 0) return null;
    const watts = (d) => (d.power_w === undefined ? "–" : d.power_limit_w ? `${d.power_w} / ${d.power_limit_w} W` : `${d.power_w} W`);
    const columns = ["GPU", "Model", "Health"];
    if (allocation.running) columns.push("Utilization", "Memory", "Temperature", "Power");
    const tasks = new Set(allocation.devices.map((d) => d.task)).size > 1;
    const partly = allocation.devices.some((d) => d.whole_gpu && (d.temperature_c !== undefined || d.power_w !== undefined));
    const shown = table(
      "GPUs of the allocation",
      tasks ? ["Task", ...columns] : columns,
      allocation.devices.map((d) => {
        const health = el("span", { class: d.health && d.health !== "healthy" ? "governor-bad" : undefined }, d.health || "not known");
        const cells = [el("code", {}, d.id), d.device.split("/").slice(2).join("/") || d.device, health];
        if (allocation.running) {
          cells.push(
            share(d.utilization_percent, 100, `${d.utilization_percent} %`, "Utilization"),
            memory(d.memory_used_mib, d.memory_total_mib),
            d.temperature_c === undefined ? "–" : `${d.temperature_c} °C`,
            watts(d),
          );
        }
        return tasks ? [d.task, ...cells] : cells;
      }),
    );
    const notes = [allocation.silent ? `No figures: ${allocation.silent}.` : "", partly ? "Temperature and power are those of the whole GPU." : ""];
    return [shown, ...notes.filter((note) => note !== "").map((note) => el("p", { class: "governor-note" }, note))];
  }

  // sets says how well the GPUs of each task are connected, and whether they are those that
  // placement had chosen.
  function sets({ allocation }) {
    const several = (allocation?.sets ?? []).filter((set) => set.given.indexes.length > 1);
    if (several.length === 0) return null;
    const ring = (s) => (s.ring_mbps ? gigabytes(s.ring_mbps) : "not known");
    const list = (s) => s.indexes.join(", ");
    const offers = several.some((set) => set.offered); // that of a job that has ended is not kept
    const columns = ["Set", "GPUs on the node", "Weakest link", "Ring bandwidth", "Best of an idle node"];
    return table(
      "NVLink sets",
      offers ? [...columns, "As offered"] : columns,
      several.map((set) => {
        const cells = [
          `Task ${set.task}`, list(set.given), set.given.weakest || "not known", ring(set.given),
          set.given.ideal_mbps ? gigabytes(set.given.ideal_mbps) : "not known",
        ];
        if (offers) {
          const same = set.offered && list(set.offered) === list(set.given);
          const words = !set.offered ? "nothing was offered" : same ? "yes" : `no: ${list(set.offered)}, ${ring(set.offered)}`;
          cells.push(el("span", { class: set.offered && !same ? "governor-bad" : undefined }, words));
        }
        return cells;
      }),
    );
  }

  function allocations({ job, allocation }) {
    if (allocation || job.allocations.length === 0) return null;
    const link = (a) => el("a", { href: rootURL + "allocations/" + encodeURIComponent(a.id) + location.search }, a.id.slice(0, 8));
    return table("Allocations with GPUs", ["Allocation", "Name", "GPUs"], job.allocations.map((a) => [link(a), a.name, String(a.gpus.length)]));
  }

  // parts of the panel by name; each is drawn anew only when what it says has changed, so
  // that neither a selection nor the focus is lost for nothing.
  const parts = { facts, why, devices, sets, allocations, account };

  // worth reports whether there is anything to say: jobs without GPUs have no panel.
  function worth(data) {
    return data.job.state !== "unknown" || (data.allocation?.devices.length ?? 0) > 0;
  }

  function frame(page) {
    const body = el("div", { class: "boxed-section-body governor-body" });
    for (const name of Object.keys(parts)) body.append(el("div", { "data-part": name }));
    const link = el("a", { href: page, class: "governor-link pull-right" }, "Open in Governor");
    return el(
      "section",
      { class: "boxed-section governor-panel", "aria-labelledby": "governor-panel-title" },
      el("div", { class: "boxed-section-head" }, el("h2", { id: "governor-panel-title" }, "GPUs and budget"), link),
      body,
    );
  }

  function draw(panel, data, drawn) {
    for (const [name, part] of Object.entries(parts)) {
      const made = [part(data)].flat().filter((node) => node !== null);
      const text = made.map((node) => node.outerHTML).join("");
      if (drawn[name] === text) continue;
      drawn[name] = text;
      const place = panel.querySelector(`[data-part="${name}"]`);
      place.hidden = made.length === 0;
      place.replaceChildren(...made);
    }
  }

  // ---- the life of a panel ---------------------------------------------------------------

  let styled = null; // a promise: the style sheet is there

  function style() {
    styled ??= new Promise((resolve, reject) => {
      const sheet = el("link", { rel: "stylesheet", href: stylePath });
      sheet.addEventListener("load", resolve, { once: true });
      sheet.addEventListener("error", reject, { once: true });
      document.head.append(sheet);
    });
    return styled;
  }

  let now = null; // the page that is shown: {asked, panel, drawn, timer, abort, failures, turn}

  function take(shown) {
    clearTimeout(shown.timer);
    shown.abort?.abort();
    shown.panel?.remove();
    shown.panel = null;
  }

  // place puts the panel into Nomad's page, and again where that was drawn anew.
  function place() {
    const before = anchor();
    if (now?.panel && before && now.panel.previousElementSibling !== before) before.after(now.panel);
  }

  async function fetched(shown) {
    shown.abort = new AbortController();
    const limit = setTimeout(() => shown.abort.abort(), patience);
    try {
      const headers = { Accept: "application/json", "X-Governor-Panel": "1" };
      const token = stored("nomadTokenSecret");
      if (token) headers["X-Nomad-Token"] = token;
      const answer = await fetch(shown.asked, { headers, signal: shown.abort.signal, cache: "no-store", credentials: "same-origin" });
      return answer.status === 200 ? await answer.json() : null;
    } finally {
      clearTimeout(limit);
    }
  }

  async function look(shown) {
    const turn = (shown.turn += 1);
    const over = () => shown !== now || turn !== shown.turn;
    shown.abort?.abort();
    let data = null;
    try {
      data = await fetched(shown);
      if (data && worth(data)) await style();
      if (over()) return;
      if (data && worth(data)) {
        shown.panel ??= frame(data.page);
        draw(shown.panel, data, shown.drawn);
        place();
        shown.failures = 0;
      }
    } catch {
      data = null;
    }
    if (over()) return;
    if (!data || !worth(data)) {
      shown.failures += 1;
      shown.panel?.remove();
      shown.panel = null;
      shown.drawn = {};
    }
    again(shown, Math.min(every * 2 ** shown.failures, slowest));
  }

  // again looks later, while the page is seen.
  function again(shown, delay) {
    clearTimeout(shown.timer);
    shown.timer = document.hidden ? 0 : setTimeout(() => look(shown), delay);
  }

  // check follows Nomad's UI to another page.
  function check() {
    const asked = question(location);
    if (now?.asked === asked) {
      place();
      return;
    }
    if (now) take(now);
    now = { asked, panel: null, drawn: {}, timer: 0, abort: null, failures: 0, turn: 0 };
    if (asked !== "") look(now);
  }

  // soon checks once for all changes of a moment, those that the panel makes among them:
  // a check that finds everything in its place changes nothing, so that none follows.
  let pending = 0;
  function soon() {
    pending ||= setTimeout(() => {
      pending = 0;
      check();
    }, settle);
  }

  addEventListener("popstate", soon);
  addEventListener("hashchange", soon);
  document.addEventListener("visibilitychange", () => {
    if (now && now.asked !== "") again(now, 0);
  });
  new MutationObserver(soon).observe(document.body, { childList: true, subtree: true });
  check();
})();
