// Fiilis: the survey that a page embeds, and the kiosk.
//
//   <script async src="https://feedback.example/widget.js" data-key="pk_..." data-touchpoint="support"></script>
//
// Attributes: data-key (needed), data-kind (mood, nps, csat, ces), data-touchpoint, data-language, data-question,
// data-respondent-token, data-target (a selector to show it in; without it a button at the corner of the page opens it),
// data-mode="kiosk". `fiilis.open()` opens it; the event `fiilis:answered` tells of each answer,
// and `fiilis:refused` of one that can not be taken.
//
// An answer has its id and time when it is given. It waits in the browser's storage until it was taken, so that neither a
// lost connection nor a closed page loses it, and sent twice it counts once.
(() => {
  "use strict";
  const WORDS = {{ words | tojson }};
  const MOUTHS = {{ mouths | tojson }};
  const SCALES = { mood: [1, 4], nps: [0, 10], csat: [1, 5], ces: [1, 7] };
  const script = document.currentScript;
  const set = script.dataset;
  const kind = SCALES[set.kind] ? set.kind : "mood";
  const kiosk = set.mode === "kiosk";
  const asked = [set.language, document.documentElement.lang, ...navigator.languages].map((l) => (l || "").slice(0, 2).toLowerCase());
  const language = asked.find((l) => WORDS[l]) || "en";
  const words = WORDS[language];
  const endpoint = new URL("/v1/feedback?key=" + encodeURIComponent(set.key || ""), script.src).href;
  if (!set.key) return console.error("fiilis: the script needs data-key");

  // ---- what waits to be sent

  const STORE = "fiilis:" + set.key.slice(-12) + ":"; // a place of its own for each answer: tabs do not disturb each other
  const MOST = 500, MOST_BYTES = 50e3; // a request that outlives its page may have 64 KiB
  const WEEK = 7 * 86400e3, FIRST = 3e3, LONGEST = 30 * 60e3;
  const memory = new Map(); // where there is no storage
  let failures = 0, timer = 0, sending = false, alone = 0; // alone: how many of the next are sent one by one

  const waiting = () => {
    const found = new Map(memory);
    try {
      for (const key of Object.keys(localStorage)) {
        if (key.startsWith(STORE)) found.set(key.slice(STORE.length), JSON.parse(localStorage.getItem(key)));
      }
    } catch { /* there is no storage */ }
    return [...found.values()].sort((one, other) => (one.occurred_at < other.occurred_at ? -1 : 1));
  };
  const drop = (answers) => {
    for (const { id } of answers) {
      memory.delete(id);
      try { localStorage.removeItem(STORE + id); } catch { /* there is no storage */ }
    }
  };
  const keep = (answer) => {
    try { localStorage.setItem(STORE + answer.id, JSON.stringify(answer)); } catch { memory.set(answer.id, answer); }
    drop(waiting().slice(0, -MOST));
  };

  // UUIDv4: a device whose clock stands in the past would make a v7 that is older than answers are kept. (randomUUID is not
  // there without https.)
  const newId = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
    return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
  };

  // One browser counts once for a while, however often it answers; a kiosk is everybody's.
  const device = () => {
    const place = "fiilis-device";
    try {
      if (!localStorage.getItem(place)) localStorage.setItem(place, newId());
      return localStorage.getItem(place);
    } catch { /* there is no storage */ }
  };

  const later = (milliseconds) => {
    clearTimeout(timer);
    timer = setTimeout(flush, milliseconds);
  };

  // The device's clock may be wrong. What is sent at once has the time at which it arrives; only what waited says when it
  // was given, and no longer once ingest has refused that.
  const said = ({ untimed, ...answer }) => {
    if (untimed || Date.now() - Date.parse(answer.occurred_at) < 60e3) delete answer.occurred_at;
    return answer;
  };

  // A text that was cut in the middle of a character has half of it, which nobody takes.
  const wellFormed = (_, value) => typeof value === "string"
    ? Array.from(value, (one) => (/^[\ud800-\udfff]$/.test(one) ? "\ufffd" : one)).join("") : value;

  const refuse = (answer, problem) => {
    drop([answer]);
    console.error("fiilis: refused", answer.id, JSON.stringify(problem));
    document.dispatchEvent(new CustomEvent("fiilis:refused", { detail: { id: answer.id, problem } }));
  };

  // What is wrong with an answer stays wrong, but its time and its token, which are dropped from it.
  const settle = (sent, results) => {
    let wait = 0;
    sent.forEach((answer, place) => {
      const result = results[place] || {};
      const wrong = (((result.error || {}).errors) || []).map((error) => error.path);
      if (wrong.includes("occurred_at") && !answer.untimed) keep({ ...answer, untimed: true });
      else if (wrong.includes("respondent_token") && answer.respondent_token) keep({ ...answer, respondent_token: undefined });
      else {
        if (result.status === "accepted") drop([answer]);
        else if ((result.error || {}).status === 429) wait = 60e3; // too many for now
        else refuse(answer, result.error);
      }
    });
    return wait;
  };

  async function flush() {
    if (sending) return;
    const old = (answer) => Date.now() - Date.parse(answer.occurred_at) > WEEK; // which nobody would take any more
    drop(waiting().filter(old));
    const some = [];
    let bytes = 0;
    for (const answer of waiting().slice(0, alone ? 1 : 20)) {
      bytes += new TextEncoder().encode(JSON.stringify(answer)).length;
      if (some.length && bytes > MOST_BYTES) break;
      some.push(answer);
    }
    if (!some.length) return;
    alone = Math.max(0, alone - 1);
    sending = true;
    let wait = 0;
    try {
      // text/plain needs no preflight; keepalive lets it end after the page has gone.
      const answered = await fetch(endpoint, {
        method: "POST", body: JSON.stringify(some.map(said), wellFormed), headers: { "Content-Type": "text/plain" }, keepalive: true,
      });
      const told = await answered.json().catch(() => ({}));
      if (Array.isArray(told.results)) wait = settle(some, told.results);
      else {
        // What is wrong with the key or the server can be mended: it waits.
        console.error("fiilis: not taken", answered.status, told.detail || told.title || "");
        if ([400, 413, 422].includes(answered.status)) {
          // Of several, one may be what is wrong: each is tried alone before it is let go.
          if (some.length > 1) alone = some.length;
          else refuse(some[0], told);
        } else wait = 1000 * (parseInt(answered.headers.get("Retry-After"), 10) || 0) || 1;
      }
    } catch {
      wait = 1;
    }
    sending = false;
    failures = wait ? failures + 1 : 0;
    if (wait) later(Math.max(wait, Math.min(LONGEST, FIRST * 2 ** (failures - 1)) * (0.5 + Math.random())));
    else if (waiting().length) later(0);
  }

  const answer = (score, comment) => {
    const given = {
      id: newId(), kind, score, occurred_at: new Date().toISOString(), channel: kiosk ? "kiosk" : "widget", language,
      touchpoint: set.touchpoint, respondent_token: set.respondentToken, comment: comment || undefined,
      device: kiosk ? undefined : device(), context: kiosk ? undefined : { page: location.pathname.slice(0, 200) },
    };
    keep(given);
    flush();
    document.dispatchEvent(new CustomEvent("fiilis:answered", { detail: { id: given.id, kind, score } }));
  };

  addEventListener("online", () => later(0));
  flush(); // what an earlier page left

  // ---- what is seen

  const STYLE = `
    :host { all: initial; font: 16px/1.45 system-ui, sans-serif; color: #1c2733; }
    * { box-sizing: border-box; }
    button, textarea { font: inherit; color: inherit; }
    button { cursor: pointer; }
    .open { position: fixed; right: 16px; bottom: 16px; z-index: 2147483000; border: 0; border-radius: 999px; padding: 12px 20px;
      background: #0b5d4b; color: #fff; font-weight: 600; box-shadow: 0 2px 8px #0004; }
    .card { background: #fff; border: 1px solid #b9b3a5; border-radius: 12px; padding: 20px; max-width: 480px; }
    .floats { position: fixed; right: 16px; bottom: 16px; z-index: 2147483000; width: calc(100vw - 32px); box-shadow: 0 4px 24px #0004; }
    .head { display: flex; justify-content: space-between; align-items: start; gap: 12px; }
    h2 { font-size: 1.15em; line-height: 1.25; margin: 0 0 12px; }
    .close { border: 0; background: none; font-size: 1.4em; line-height: 1; padding: 4px 8px; }
    .scale { display: grid; grid-template-columns: repeat(${SCALES[kind][1] - SCALES[kind][0] + 1}, minmax(0, 1fr)); gap: 5px; margin: 0 0 6px; }
    .scale button { min-height: 44px; border: 1px solid #b9b3a5; border-radius: 8px; background: #fff; padding: 4px; }
    .scale button[aria-pressed="true"] { border-color: #0b5d4b; outline: 2px solid #0b5d4b; }
    .scale span { display: block; font-size: .8em; }
    .ends { display: flex; justify-content: space-between; font-size: .85em; color: #5b6672; margin: 0 0 12px; }
    label { display: block; margin: 12px 0 4px; }
    textarea { width: 100%; min-height: 72px; border: 1px solid #b9b3a5; border-radius: 8px; padding: 8px; background: #fff; }
    .send { border: 0; border-radius: 8px; padding: 12px 24px; margin: 12px 0 0; background: #0b5d4b; color: #fff; font-weight: 600; }
    :focus-visible { outline: 3px solid #0b5d4b; outline-offset: 2px; }
    .kiosk { min-height: 100vh; display: flex; flex-direction: column; justify-content: center; gap: 4vh; padding: 4vmin; background: #f6f4ef; text-align: center; }
    .kiosk h2 { font-size: clamp(28px, 6vmin, 72px); margin: 0; }
    .kiosk .scale { gap: 3vmin; width: min(100%, 132vmin); margin: 0 auto; }
    .kiosk .scale button { padding: 3vmin; border-radius: 3vmin; border-width: 2px; }
    .kiosk svg { width: 100%; height: auto; }
    .kiosk .scale span { font-size: clamp(16px, 2.6vmin, 30px); }
    @media (max-width: 480px) { .many { grid-template-columns: repeat(6, minmax(0, 1fr)); } }`;

  const make = (tag, attributes, ...inside) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else made.setAttribute(name, value);
    }
    made.append(...inside);
    return made;
  };
  const SVG = "http://www.w3.org/2000/svg";
  const face = (score) => {
    const drawn = document.createElementNS(SVG, "svg");
    for (const [name, value] of Object.entries({ viewBox: "0 0 24 24", width: 40, height: 40, fill: "none", stroke: "currentColor", "stroke-width": 1.6, "stroke-linecap": "round", "aria-hidden": true })) drawn.setAttribute(name, value);
    const circle = document.createElementNS(SVG, "circle");
    for (const [name, value] of Object.entries({ cx: 12, cy: 12, r: 10 })) circle.setAttribute(name, value);
    const line = (d, width) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("d", d);
      if (width) path.setAttribute("stroke-width", width);
      return path;
    };
    drawn.append(circle, line("M8.5 9.5v.01M15.5 9.5v.01", 2.4), line(MOUTHS[score - 1]));
    return drawn;
  };

  const host = document.createElement("fiilis-survey");
  const shadow = host.attachShadow({ mode: "open" });
  const sheet = new CSSStyleSheet(); // no <style>: a page's content security policy does not forbid this one
  sheet.replaceSync(STYLE);
  shadow.adoptedStyleSheets = [sheet];
  const show = (...inside) => shadow.replaceChildren(...inside);
  const question = set.question || (kind === "mood" ? words.question : words[kind]);

  const scale = (chosen) => {
    const buttons = [], [low, high] = SCALES[kind];
    for (let score = low; score <= high; score++) {
      const label = kind === "mood" ? words.faces[score - 1] : String(score);
      const button = make("button", { type: "button", "data-score": score, "aria-pressed": "false", onclick: () => {
        for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
        chosen(score);
      } }, ...(kind === "mood" ? [face(score), make("span", {}, label)] : [label]));
      buttons.push(button);
    }
    // The best face first, as on the terminals that people know; numbers as they are counted.
    const row = make("div", { class: buttons.length > 7 ? "scale many" : "scale", role: "group", "aria-label": question }, ...(kind === "mood" ? buttons.slice().reverse() : buttons));
    return kind === "mood" ? [row] : [row, make("div", { class: "ends" }, ...words[kind + "_ends"].map((end) => make("span", {}, end)))];
  };

  const floats = !set.target && !kiosk;
  let unsent = null;
  let closing = 0;
  const close = () => {
    unsent = null;
    show(opener());
  };
  const opener = () => make("button", { type: "button", class: "open", onclick: survey }, words.title);
  const thanks = () => show(make("div", { class: floats ? "card floats" : "card", role: "status" }, make("h2", {}, words.thanks)));
  const send = () => {
    const { score, comment } = unsent;
    unsent = null;
    answer(score, comment.value.trim().slice(0, 4000));
    thanks();
    if (floats) closing = setTimeout(close, 4000);
  };

  function survey() {
    clearTimeout(closing);
    const comment = make("textarea", { id: "comment", maxlength: 4000 });
    const more = make("div", { hidden: "" }, make("label", { for: "comment" }, words.comment), comment,
      make("button", { type: "button", class: "send", onclick: send }, words.send));
    const head = make("div", { class: "head" }, make("h2", {}, question));
    if (floats) head.append(make("button", { type: "button", class: "close", "aria-label": words.close, onclick: close }, "\u00d7"));
    const card = make("div", { class: floats ? "card floats" : "card", role: floats ? "dialog" : "form", "aria-label": question }, head,
      ...scale((score) => { unsent = { score, comment }; more.hidden = false; }), more);
    show(card);
    if (!floats) return;
    card.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
    card.querySelector(".scale button").focus();
  }

  function terminal() {
    show(make("div", { class: "kiosk" }, make("h2", {}, question), ...scale((score) => {
      answer(score);
      show(make("div", { class: "kiosk", role: "status" }, make("h2", {}, words.thanks)));
      setTimeout(terminal, 3000); // pressed again and again it counts once every few seconds
    })));
  }

  // Whoever chose and then left has answered.
  addEventListener("pagehide", () => { if (unsent) send(); });

  const begin = () => {
    const place = set.target ? document.querySelector(set.target) : document.body;
    if (!place) return console.error("fiilis: nothing matches " + set.target);
    place.append(host);
    if (kiosk) terminal();
    else if (floats) show(opener());
    else survey();
  };
  window.fiilis = { open: survey };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})();
