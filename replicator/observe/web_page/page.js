"use strict";
// Shows what /status, /history and /journal say. What comes from a database goes into the page as text, never as markup.

const PHASES = ["new", "backfill", "build", "follow", "cutover", "soak", "finalized"];
const BETWEEN = { rolling: "cutover", rollback: "soak" };  // where these stand on the way
const FRESH = 15;  // seconds without an answer until the page says so

const $ = (id) => document.getElementById(id);
let heard = null;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined && text !== null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function drawn(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const fill = (id, children) => $(id).replaceChildren(...children);
const shown = (id, condition) => { $(id).hidden = !condition; };
const row = (...cells) => { const made = element("tr"); made.append(...cells); return made; };
const cell = (text, kind) => element("td", text, kind ? { class: kind } : {});
const amount = (number) => number.toLocaleString("en");

function sized(bytes) {
  if (bytes === null) return "not measured yet";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (bytes >= 1024 && place < units.length - 1) { bytes /= 1024; place += 1; }
  return `${place ? bytes.toFixed(1) : bytes} ${units[place]}`;
}

function lasting(seconds) {
  if (seconds === null) return "not measured yet";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 120) return `${seconds.toFixed(1)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 120 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

const local = (iso) => new Date(iso).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
const sum = (rows, name) => rows.reduce((all, each) => all + each[name], 0);

function verdict(status) {
  const shut = status.gates.filter((each) => !each.ok).map((each) => each.name);
  const back = status.way_back;
  const waits = shut.length ? `Waiting for: ${shut.join(", ")}.` : "";
  switch (status.phase) {
    case "follow":
      return status.ready ? ["May I cut over?", "Yes", "Every gate is open.", "yes"] : ["May I cut over?", "No", waits, "no"];
    case "soak": case "rolling": {
      const answers = { open: ["Yes", "yes"], waits: ["In a moment", "wait"], none: ["There is none", "wait"] };
      const [answer, kind] = answers[back.state] || ["No", "no"];
      return ["May I roll back?", answer, back.detail || "Every gate is open.", kind];
    }
    case "finalized":
      return ["Is it over?", "Yes", "Nothing follows any more. The old tables may go.", "yes"];
    case "cutover": case "rollback":
      return [`Is the ${status.phase} done?`, "It is under way", "", "wait"];
    default:
      return ["May I cut over?", "Not yet", waits, "wait"];
  }
}

function showVerdict(status) {
  const [question, answer, why, kind] = verdict(status);
  $("question").textContent = question;
  $("answer").textContent = answer;
  $("why").textContent = why;
  $("verdict").className = kind;
  document.title = `${answer === "Yes" ? "✓" : "…"} ${status.phase} – ${status.migration}`;
}

function showPhases(status) {
  const at = PHASES.indexOf(BETWEEN[status.phase] || status.phase);
  fill("phases", PHASES.map((name, place) => {
    const label = place === at && BETWEEN[status.phase] ? status.phase : name;
    const made = element("li", label);
    if (place === at) made.setAttribute("aria-current", "step");
    if (place < at) made.className = "past";
    return made;
  }));
}

function showLists(status) {
  fill("next", status.next.flatMap((each) => {
    const term = element("dt");
    term.append(each.command ? element("code", each.command) : element("span", "Nothing is to be done now"));
    return [term, element("dd", each.does)];
  }));
  shown("waiting-section", status.waiting.length);
  fill("waiting", status.waiting.map((each) =>
    element("li", `${each.session}, for ${lasting(each.seconds)}: ${each.in_the_way.join("; ")}`)));
  fill("gates", status.gates.map((each) =>
    row(cell(each.name), cell(each.ok ? "open" : "shut", each.ok ? "good" : "bad"), cell(each.detail))));
  shown("facts-section", status.facts.length);
  fill("facts", status.facts.flatMap((each) => [element("dt", each.problem), element("dd", each.remedy)]));
  shown("errors-section", status.errors.length);
  fill("errors", [...status.errors].reverse().flatMap((each) =>
    [element("dt", `${local(each.at)} ${each.kind}`), element("dd", each.text)]));
}

function showFigures(status) {
  const divergent = sum(status.divergence, "missing") + sum(status.divergence, "extra") + sum(status.divergence, "different");
  const figures = [
    ["lag", lasting(status.lag_seconds)],
    ["WAL behind", sized(status.lag_bytes)],
    ["WAL kept for us", sized(status.slot_retained_bytes)],
    ["divergent rows", amount(divergent)],
    ["rows in quarantine", amount(sum(status.quarantined, "rows"))],
    ["verified", status.verify.running ? `${amount(status.verify.running.done)} of ${amount(status.verify.running.total)}` :
      `${amount(status.verify.passes)} ${status.verify.passes === 1 ? "pass" : "passes"}`],
    ["owner of the data", `the ${status.owner} schema`],
    ["last write pause", status.cutover_write_pause_seconds === null ? "none yet" : lasting(status.cutover_write_pause_seconds)],
  ];
  if (status.backfill_seconds_remaining) figures.unshift(["backfill, time left", lasting(status.backfill_seconds_remaining)]);
  fill("figures", figures.map(([name, value]) => {
    const made = element("div");
    made.append(element("dt", name), element("dd", value));
    return made;
  }));
}

function showTables(status) {
  shown("backfill-section", status.backfill.some((each) => !each.done));
  fill("backfill", status.backfill.map((each) => {
    const bar = element("td");
    const most = Math.max(each.expected, each.rows, 1);
    bar.append(element("progress", null, { max: most, value: each.done ? most : each.rows, "aria-label": each.table }));
    return row(cell(each.table), bar, cell(amount(each.rows), "number"), cell(amount(each.expected), "number"));
  }));
  const apart = status.divergence.filter((each) => each.missing + each.extra + each.different);
  shown("divergence-section", apart.length);
  fill("divergence", apart.map((each) => row(
    cell(each.table), cell(amount(each.missing), "number"), cell(amount(each.extra), "number"), cell(amount(each.different), "number"),
    cell(each.examples.map((one) => `${one.kind} (${one.key.join(", ")})${one.columns.length ? ` in ${one.columns.join(", ")}` : ""}`).join("; ")))));
  const names = [...new Set([...status.quarantined, ...status.discarded].map((each) => each.transform))];
  const of = (rows, name) => amount(sum(rows.filter((each) => each.transform === name), "rows"));
  shown("quarantine-section", names.length);
  fill("quarantine", names.map((name) =>
    row(cell(name), cell(of(status.quarantined, name), "number"), cell(of(status.discarded, name), "number"))));
}

// ---- plots

function nice(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= most);
}

function showLag(samples) {
  const measured = samples.filter((each) => each.lag_seconds !== null);
  if (!measured.length) return;
  const end = Date.parse(samples[samples.length - 1].at), span = 30 * 60 * 1000;
  const top = nice(Math.max(0.1, ...measured.map((each) => each.lag_seconds)));
  const x = (each) => 50 + 660 * (1 - (end - Date.parse(each.at)) / span);
  const y = (seconds) => 140 - 125 * seconds / top;
  const points = measured.map((each) => `${x(each).toFixed(1)},${y(each.lag_seconds).toFixed(1)}`);
  const first = x(measured[0]).toFixed(1), last = x(measured[measured.length - 1]).toFixed(1);
  const parts = [0, 0.5, 1].flatMap((part) => [
    drawn("line", { class: "grid", x1: 50, x2: 710, y1: y(top * part), y2: y(top * part) }),
    drawn("text", { x: 44, y: y(top * part) + 4, "text-anchor": "end" }, lasting(top * part)),
  ]);
  parts.push(drawn("polygon", { class: "area", points: `${first},140 ${points.join(" ")} ${last},140` }));
  parts.push(drawn("polyline", { class: "curve", points: points.join(" ") }));
  parts.push(drawn("text", { x: 50, y: 156 }, "30 min ago"), drawn("text", { x: 710, y: 156, "text-anchor": "end" }, "now"));
  fill("lag", parts);
  const worst = Math.max(...measured.map((each) => each.lag_seconds));
  $("lag-text").textContent = `Now ${lasting(measured[measured.length - 1].lag_seconds)}, at worst ${lasting(worst)}.`;
}

function pausesOf(entries) {
  return entries.flatMap((each) => {
    const found = each.details.write_pause_seconds ?? each.details.result?.write_pause_seconds;
    return typeof found === "number" ? [{ at: each.at, what: each.details.command || each.event, seconds: found }] : [];
  });
}

function showPauses(entries) {
  const pauses = pausesOf(entries).slice(-12);
  shown("pause-section", pauses.length);
  if (!pauses.length) return;
  const top = nice(Math.max(...pauses.map((each) => each.seconds), 0.001));
  const parts = [drawn("line", { class: "grid", x1: 50, x2: 710, y1: 95, y2: 95 }), drawn("text", { x: 44, y: 24, "text-anchor": "end" }, lasting(top))];
  pauses.forEach((each, place) => {
    const height = Math.max(1, 75 * each.seconds / top);
    parts.push(drawn("rect", { class: "bar", x: 60 + place * 54, y: 95 - height, width: 36, height }));
    parts.push(drawn("text", { x: 78 + place * 54, y: 112, "text-anchor": "middle" }, each.what));
  });
  fill("pause", parts);
  const last = pauses[pauses.length - 1];
  $("pause-text").textContent = `Last: ${last.what}, writers waited ${lasting(last.seconds)}.`;
}

function stepsOf(steps) {
  return steps.map((each) => `${each.step} ${(each.seconds * 1000).toFixed(1)} ms`).join(", ");
}

function details(value) {
  if (Array.isArray(value) && value.length && value[0].seconds !== undefined) return stepsOf(value);
  if (Array.isArray(value)) return value.map(details).join(" ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value).filter(([name]) => name !== "by").map(([name, one]) =>
      one !== null && typeof one === "object" && !Array.isArray(one) ? details(one) : `${name} ${details(one)}`).filter(Boolean).join(", ");
  }
  return String(value);
}

function showJournal(entries) {
  fill("journal", [...entries].reverse().map((each) => row(
    cell(local(each.at), "soft"), cell(each.details.by ? `${each.who} (${each.details.by})` : each.who), cell(each.event),
    cell(details(each.details)))));
  showPauses(entries);
}

// ---- asking

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function showConnection(status) {
  const place = $("connection");
  if (status) {
    heard = Date.now();
    const daemon = status.daemon;
    place.textContent = daemon ? `daemon ${daemon.version}, process ${daemon.pid} on ${daemon.host}` : "The daemon is starting.";
    place.className = "";
  } else if (heard === null || Date.now() - heard > FRESH * 1000) {
    place.textContent = heard === null ? "The daemon does not answer." :
      `The daemon has not answered since ${new Date(heard).toLocaleTimeString()}: what is shown below is old.`;
    place.className = "lost";
    $("verdict").className = "unknown";
    $("answer").textContent = "Not known";
  }
}

async function refresh() {
  try {
    const status = await ask("status");
    $("migration").textContent = status.migration;
    showVerdict(status); showPhases(status); showLists(status); showFigures(status); showTables(status);
    showConnection(status);
  } catch (error) {
    showConnection(null);
  }
}

async function refreshMore() {
  try {
    showLag(await ask("history"));
    showJournal(await ask("journal"));
  } catch (error) { /* the status says whether the daemon answers */ }
}

async function always(what, milliseconds) {
  for (;;) {
    await what();
    await new Promise((next) => setTimeout(next, milliseconds));
  }
}

always(refresh, 1000);
always(refreshMore, 5000);
