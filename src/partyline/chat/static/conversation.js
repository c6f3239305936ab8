// @ts-check
/**
 * The messages of a talk and the box to write in; rooms and strangers share it. Whatever people wrote becomes text
 * nodes, never markup.
 *
 * @typedef {{id: string, by: string, name?: string, text: string, time: number, mine?: boolean}} Message
 *   `time` in ms; `by` tells people of the same name apart
 */

import { session } from "./kept.js";

export const MOST_TEXT = 4000; // characters; the server's bound
const TOGETHER = 5 * 60_000; // messages of one person within this stand together
const LONG = 1200; // characters, or
const MANY = 18; // lines, from which on a message is folded
const TYPING_AGAIN = 2500; // ms
const TYPING_LASTS = 6000;
const LINK = /\bhttps?:\/\/[^\s<>"'`\u2000-\u206f\ufeff]+/giu;

const EMOJI = /^(?:[\p{Extended_Pictographic}\p{Emoji_Modifier}\u200d\ufe0f\u20e3\s]|\p{Regional_Indicator})+$/u;

/** @param {string} id @returns {any} */
export const $ = (id) => document.getElementById(id);

/** @param {string} tag @param {string} [className] @param {string} [text] */
export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

/** Tell it to who cannot see. @param {string} text */
export const announce = (text) => ($("live").textContent = text);

/**
 * A button that opens something, until Escape, a press elsewhere or one of the buttons in it.
 * @param {HTMLElement} button @param {HTMLElement} what @param {AbortSignal} signal ends it
 */
export function opens(button, what, signal) {
  /** @param {boolean} open */
  const set = (open) => {
    if (!open && what.contains(document.activeElement)) button.focus();
    what.classList.toggle("open", open);
    button.setAttribute("aria-expanded", String(open));
  };
  const press = (/** @type {Event} */ { target }) => {
    const on = /** @type {Element} */ (target);
    if (button.contains(on)) set(!what.classList.contains("open"));
    else if (!what.contains(on) || on.closest("button")) set(false);
  };
  const key = (/** @type {KeyboardEvent} */ event) => {
    if (event.key !== "Escape" || !what.classList.contains("open")) return;
    set(false);
    button.focus();
  };
  document.addEventListener("click", press, { signal });
  document.addEventListener("keydown", key, { signal });
  set(false);
}

/** Text with its addresses as links. @param {HTMLElement} into @param {string} text */
function write(into, text) {
  let end = 0;
  for (const { 0: found, index } of text.matchAll(LINK)) {
    let address = found.replace(/[.,:;!?…*_~]+$/u, "");
    // A bracket that was not opened within belongs to the sentence.
    while (/[)\]}]$/.test(address) && !/[([{]/.test(address)) address = address.slice(0, -1);
    if (!URL.canParse(address)) continue;
    const link = Object.assign(document.createElement("a"), { href: address, target: "_blank", textContent: address });
    link.rel = "noopener noreferrer nofollow";
    into.append(text.slice(end, index), link);
    end = index + address.length;
  }
  into.append(text.slice(end));
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const calendar = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** @param {number} time */
function day(time) {
  const then = new Date(time).toDateString();
  if (then === new Date().toDateString()) return "Today";
  if (then === new Date(Date.now() - 86_400_000).toDateString()) return "Yesterday";
  return calendar.format(time);
}

/** One of eight colours for a person. @param {string} by */
export const hue = (by) =>
  "hue-" + ([...by].reduce((sum, letter) => Math.imul(sum ^ letter.charCodeAt(0), 16_777_619), 0x811c9dc5) >>> 29);

/** What may be sent: whole characters, no controls but line ends and tabs. @param {string} text */
const clean = (text) =>
  text
    .toWellFormed()
    .replace(/\r\n?/g, "\n")
    .replace(/[\0-\x08\x0b-\x1f\x7f-\x9f]/g, "")
    .trim();

/** What shows nothing. */
const UNSEEN = /^[\p{Cc}\p{Cf}\p{Mn}\p{Me}\p{Z}\u115f\u1160\u2800\u3164\uffa0]*$/u;

export class Conversation {
  /** @type {Map<string, HTMLElement>} by message id */
  #items = new Map();
  #unread = 0;
  #near = true; // the end is in sight, and stays so
  #height = 0; // of the window on the messages, when the end was last shown
  #typed = 0;
  /** @type {Map<string, any>} who types: the timer that ends it */
  #typists = new Map();
  #gone = new AbortController();
  #loading = false;

  /**
   * @param {{send: (text: string) => void, typing: (on: boolean) => void, older?: () => Promise<boolean>,
   *   draft?: string}} doing
   *   `older` loads what came before, and says whether there may be more; `draft` is the name by which what is not
   *   sent yet outlives this view and a reload of the page
   */
  constructor(doing) {
    this.doing = doing;
    this.title = "Partyline";
    $("log").replaceChildren();
    $("typing").textContent = "";
    $("newer").hidden = true;
    this.top("");
    const text = $("text");
    text.value = doing.draft ? session.get(doing.draft) : "";
    this.#fit();
    const { signal } = this.#gone;
    /** @param {any} on @param {string} event @param {(event: any) => void} listener */
    const listen = (on, event, listener) => on.addEventListener(event, listener, { signal });
    listen($("composer"), "submit", (event) => (event.preventDefault(), this.#submit()));
    listen(text, "keydown", (event) => {
      // 229: Safari ends a composition before the Enter that confirmed it.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      this.#submit();
    });
    listen(text, "input", () => (this.#changed(), this.#tell(text.value.trim() !== "")));
    listen(text, "blur", () => this.#tell(false));
    listen($("scroller"), "scroll", () => this.#scrolled());
    listen($("newer"), "click", () => this.toEnd());
    listen(document, "visibilitychange", () => this.#seen());
    listen(window, "focus", () => this.#seen());
    this.sizes = new ResizeObserver(() => this.#near && this.toEnd());
    this.sizes.observe($("scroller"));
  }

  /** Take it off the page. */
  close() {
    this.#gone.abort();
    this.sizes.disconnect();
    for (const timer of this.#typists.values()) clearTimeout(timer);
  }

  // The box

  /** Whether one may write. What stands there stays, with the focus: who is typing presses nothing. @param {boolean} may */
  enable(may) {
    $("text").readOnly = !may;
    this.#fit();
  }

  /** Where it neither presses anything nor opens a keyboard on the screen. */
  focus() {
    $(matchMedia("(hover: hover)").matches ? "text" : "title").focus();
  }

  #submit() {
    const text = $("text");
    const said = clean(text.value);
    if (UNSEEN.test(said) || text.readOnly || [...said].length > MOST_TEXT) return;
    text.value = "";
    this.#changed();
    this.#tell(false);
    this.doing.send(said);
    this.toEnd();
  }

  #changed() {
    if (this.doing.draft) session.set(this.doing.draft, $("text").value);
    this.#fit();
  }

  #fit() {
    const text = $("text");
    const count = [...text.value.trim()].length;
    text.style.height = "auto";
    text.style.height = `${text.scrollHeight + 2}px`;
    if (this.#near) this.toEnd();
    $("composer").querySelector("button").disabled = text.readOnly || !count || count > MOST_TEXT;
    const counter = $("counter");
    counter.hidden = count < MOST_TEXT * 0.9;
    counter.textContent = `${count.toLocaleString()} of ${MOST_TEXT.toLocaleString()} characters`;
    counter.classList.toggle("over", count > MOST_TEXT);
  }

  /** @param {boolean} on */
  #tell(on) {
    const now = Date.now();
    if (on ? now - this.#typed < TYPING_AGAIN : !this.#typed) return;
    this.#typed = on ? now : 0;
    this.doing.typing(on);
  }

  // The messages

  /** Whether this message of the log is here; an own one on its way is not, wherever it may be. @param {string} id */
  has(id) {
    return this.#items.get(id)?.classList.contains("pending") === false;
  }

  get empty() {
    return !$("log").querySelector(".message:not(.pending)");
  }

  /** A message that just came; one that is known already is not shown twice. @param {Message} message */
  add(message) {
    const known = this.#items.get(message.id);
    if (known && !known.classList.contains("pending")) return;
    this.#place(message, known, $("log").querySelector(".pending"));
    if (message.mine) return;
    const from = message.name ?? "Stranger";
    this.typing(message.by, from, false);
    announce(`${from}: ${message.text}`);
    if (document.hidden || !document.hasFocus()) this.#unread += 1;
    if (!this.#near) $("newer").hidden = false;
    this.#head();
  }

  /**
   * A page of the log, oldest first. What is known keeps its place, and shows where the rest belongs.
   * @param {Message[]} messages @param {boolean} older whether it goes before all that is here
   */
  merge(messages, older) {
    const scroller = $("scroller");
    const height = scroller.scrollHeight;
    const log = $("log");
    /** @type {Element | null} */
    let after = null;
    for (const message of messages) {
      const known = this.#items.get(message.id);
      if (!known || known.classList.contains("pending")) {
        this.#place(message, known, after ? after.nextElementSibling : log.firstElementChild);
      }
      after = this.#items.get(message.id) ?? after;
    }
    if (older) scroller.scrollTop += scroller.scrollHeight - height;
  }

  /** Forget all but what is not sent yet: there are too many new messages in between. */
  clear() {
    for (const [id, item] of this.#items) {
      if (item.classList.contains("pending")) continue;
      item.remove();
      this.#items.delete(id);
    }
  }

  /** An own message on its way. @param {Message} message */
  pending(message) {
    const item = this.#place({ ...message, mine: true }, undefined, null);
    item.classList.add("pending");
    this.state(message.id, "Sending…");
  }

  /**
   * What became of an own message.
   * @param {string} id @param {string} text
   * @param {Record<string, () => void>} [acts] that one may do about it, by label: it is not sent
   */
  state(id, text, acts) {
    const item = this.#items.get(id);
    const line = item?.querySelector(".state");
    if (!item || !line) return;
    line.replaceChildren(text);
    item.classList.toggle("failed", !!acts);
    for (const [label, act] of Object.entries(acts ?? {})) {
      const button = element("button", "link", label);
      button.addEventListener("click", act);
      line.append(" ", button);
    }
    if (this.#near) this.toEnd();
  }

  /** @param {string} id */
  drop(id) {
    this.#items.get(id)?.remove();
    this.#items.delete(id);
  }

  /** A line that nobody wrote. @param {string} text */
  notice(text) {
    $("log").append(element("li", "notice", text));
    announce(text);
    if (this.#near) this.toEnd();
  }

  /** @param {Message} message @param {HTMLElement | undefined} item @param {Element | null} before */
  #place(message, item, before) {
    const log = $("log");
    const left = item?.nextElementSibling;
    item ??= this.#make(message);
    if (before !== item) log.insertBefore(item, before);
    item.classList.remove("pending", "failed");
    item.querySelector(".state")?.replaceChildren();
    item.dataset.time = String(message.time);
    const time = /** @type {HTMLTimeElement} */ (item.querySelector("time"));
    time.dateTime = new Date(message.time).toISOString();
    time.textContent = clock.format(message.time);
    time.title = moment.format(message.time);
    for (const one of [item, item.nextElementSibling, left]) if (one) this.#arrange(/** @type {any} */ (one));
    if (this.#near) this.toEnd();
    return item;
  }

  /** @param {Message} message */
  #make({ id, by, name, text, mine }) {
    const item = element("li", "message" + (mine ? " mine" : ""));
    item.dataset.by = mine ? "me" : by;
    item.dataset.id = id;
    const head = element("p", "by");
    const who = element("bdi", name && !mine ? hue(by) : "", mine ? "You" : (name ?? "Stranger"));
    head.append(who, " ", element("time"));
    const bubble = element("div", "bubble");
    bubble.dir = "auto";
    write(bubble, text);
    // Nothing but a few emoji: large.
    if (EMOJI.test(text) && text.length < 24) bubble.classList.add("large");
    item.append(head, bubble);
    if (text.length > LONG || text.split("\n").length > MANY) {
      bubble.classList.add("folded");
      const more = element("button", "link more", "Show all");
      more.addEventListener("click", () => {
        more.textContent = bubble.classList.toggle("folded") ? "Show all" : "Show less";
      });
      item.append(more);
    }
    if (mine) item.append(element("p", "state"));
    this.#items.set(id, item);
    return item;
  }

  /** Its date, where a day begins; its name, where a person begins. @param {HTMLElement} item */
  #arrange(item) {
    if (!item.dataset.time) return;
    const before = /** @type {?HTMLElement} */ (item.previousElementSibling);
    const time = Number(item.dataset.time);
    const last = Number(before?.dataset.time ?? NaN);
    const begins = before?.classList.contains("notice") ? false : day(last || 0) !== day(time);
    if (begins) item.dataset.day = day(time);
    else delete item.dataset.day;
    const follows = !begins && before?.dataset.by === item.dataset.by && time - last < TOGETHER;
    item.classList.toggle("follows", follows);
  }

  // Where one looks

  /** What stands above the first message. @param {string} text */
  top(text) {
    $("top").textContent = text;
  }

  toEnd() {
    this.#near = true;
    const scroller = $("scroller");
    this.#height = scroller.clientHeight;
    scroller.scrollTop = scroller.scrollHeight;
    $("newer").hidden = true;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = $("scroller");
    // The window or the box to write in has taken or left place: that is nobody scrolling.
    if (this.#height !== clientHeight && this.#near) return this.toEnd();
    this.#near = scrollHeight - scrollTop - clientHeight < 60;
    if (this.#near) $("newer").hidden = true;
    if (scrollTop < 300) this.fill();
  }

  /** Load what came before, as long as the top is in sight. */
  async fill() {
    if (this.#loading || !this.doing.older) return;
    this.#loading = true;
    try {
      while (!this.#gone.signal.aborted && $("scroller").scrollTop < 300 && (await this.doing.older()));
    } finally {
      this.#loading = false;
    }
  }

  #seen() {
    if (document.hidden) return;
    this.#unread = 0;
    this.#head();
  }

  /** What the window's title says. @param {string} [title] */
  #head(title = this.title) {
    document.title = (this.#unread ? `(${this.#unread}) ` : "") + title;
  }

  /** @param {string} title of the talk */
  name(title) {
    this.title = title;
    this.#head();
  }

  // Who types

  /** @param {string} by @param {string} name @param {boolean} on */
  typing(by, name, on) {
    clearTimeout(this.#typists.get(by)?.timer);
    this.#typists.delete(by);
    if (on) this.#typists.set(by, { name, timer: setTimeout(() => this.typing(by, name, false), TYPING_LASTS) });
    const names = [...this.#typists.values()].map((one) => one.name);
    const line = $("typing");
    line.replaceChildren();
    if (!names.length) return;
    if (names.length > 2) line.append("Several people are typing");
    else {
      names.forEach((one, n) => line.append(n ? " and " : "", element("bdi", "", one)));
      line.append(names.length > 1 ? " are typing" : " is typing");
    }
    line.append(element("span", "dots"));
  }

  /** Nobody types any more. */
  quiet() {
    for (const [by, { name }] of this.#typists) this.typing(by, name, false);
  }
}
