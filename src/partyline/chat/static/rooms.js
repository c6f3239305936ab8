// @ts-check
/** A room: its log, who is here, and own messages until the server has them. */

import { $, Conversation, announce, element, hue } from "./conversation.js";
import { Socket } from "./partyline.js";

const PAGES = 10; // that are looked through for what is known already, after a long absence

/** @typedef {import("./conversation.js").Message} Message */
/** @typedef {{error: string, message: string, field?: string, wait?: number}} Refusal */

export class Room {
  #me = "";
  /** @type {Map<string, string>} names by person */
  #people = new Map();
  #count = 0;
  /** @type {Message[]} own messages that the server has not confirmed */
  #queue = [];
  #pumping = false;
  #inside = false;
  /** @type {string | null} where the page before the first message here ends */
  #before = null;
  #gone = new AbortController();

  /**
   * @param {{room: string, name: string, key: string}} who
   * @param {(socket: Socket, signal: AbortSignal) => void} watch
   * @param {(error: Refusal) => void} refused
   */
  constructor(who, watch, refused) {
    this.who = who;
    this.refused = refused;
    const { signal } = this.#gone;
    this.conversation = new Conversation({
      send: (text) => this.#say(text),
      typing: (on) => this.socket.emit("typing", on),
      older: () => this.#older(),
      placeholder: "Message " + who.room,
    });
    this.conversation.name(who.room);
    this.conversation.enable(true);
    $("title").textContent = who.room;
    $("subtitle").textContent = "";
    $("meet").hidden = true;
    $("scroller").hidden = $("composer").hidden = false;
    $("people").classList.remove("open");
    this.#showPeople();

    this.socket = new Socket("/chat", { base: 500, cap: 8000 });
    this.socket.addEventListener("state", (event) => this.#turned(/** @type {CustomEvent} */ (event).detail.state));
    this.socket.on("said", (message) => this.conversation.add(this.#own(message)));
    this.socket.on("typing", ({ by, name, on }) => this.conversation.typing(by, name, on));
    this.socket.on("came", (person) => this.#came(person));
    this.socket.on("left", (person) => this.#left(person));
    watch(this.socket, signal);
    $("share").addEventListener("click", () => this.#share(), { signal });
    $("show-people").addEventListener("click", () => this.#toggle(), { signal });
    this.conversation.focus();
  }

  close() {
    this.#gone.abort();
    this.conversation.close();
    this.socket.close();
  }

  /** @param {Message} message */
  #own(message) {
    return { ...message, mine: message.by === this.#me };
  }

  /** @param {string} state */
  #turned(state) {
    if (state === "connected") this.#enter();
    else {
      this.#inside = false;
      this.conversation.quiet();
    }
  }

  /** Come in, and bring what is here up to date. */
  async #enter() {
    const { conversation } = this;
    try {
      const answer = await this.socket.call("enter", this.who);
      if (answer.field) return this.refused(answer);
      if (answer.error) return this.#later(() => this.#enter(), 2000);
      this.#me = answer.me;
      this.#people = new Map(answer.people.map((/** @type {any} */ { by, name }) => [by, name]));
      this.#count = answer.count;
      this.#showPeople();
      const fresh = conversation.empty;
      let { messages, before } = answer;
      const met = () => messages.some((/** @type {Message} */ { id }) => conversation.has(id));
      for (let page = 1; !fresh && before && !met() && page < PAGES; page++) {
        const older = await this.socket.call("older", before);
        if (older.error) break;
        messages = [...older.messages, ...messages];
        before = older.before;
      }
      if (fresh || !met()) {
        conversation.clear();
        this.#before = before;
      }
      conversation.merge(messages.map((/** @type {Message} */ one) => this.#own(one)), false);
      if (fresh) conversation.toEnd();
      this.#begin();
      this.#queue = this.#queue.filter(({ id }) => !messages.some((/** @type {Message} */ one) => one.id === id));
      this.#inside = true;
      this.#pump();
      conversation.fill();
    } catch {
      // lost meanwhile: the next connection does it again. A server that does not answer is given up.
      if (this.socket.state === "connected") this.#later(() => this.#enter(), 1000);
    }
  }

  /** @param {() => void} act @param {number} ms */
  #later(act, ms) {
    setTimeout(() => this.#gone.signal.aborted || act(), ms);
  }

  #begin() {
    if (this.#before) this.conversation.top("");
    else this.conversation.top(this.conversation.empty ? "Nothing has been said here yet." : "Here it begins.");
  }

  /** @returns {Promise<boolean>} whether there may be more */
  async #older() {
    if (!this.#before || !this.#inside) return false;
    this.conversation.top("Loading…");
    try {
      const { messages, before, error } = await this.socket.call("older", this.#before);
      if (error) return false;
      this.#before = before;
      this.conversation.merge(messages.map((/** @type {Message} */ one) => this.#own(one)), true);
      return !!before;
    } catch {
      return false;
    } finally {
      this.#begin();
    }
  }

  // Own messages: one after the other, each with its id until the server has it

  /** @param {string} text */
  #say(text) {
    const id = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) => b.toString(36).padStart(2, "0")).join("");
    const message = { id, by: this.#me, name: this.who.name, text, time: Date.now() };
    this.conversation.pending(message);
    this.#queue.push(message);
    this.#pump();
  }

  async #pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#inside && this.#queue.length && !this.#gone.signal.aborted) {
        const message = this.#queue[0];
        const { id, text } = message;
        const answer = await this.socket.call("say", { id, text });
        if (answer.error === "rate_limited" || answer.error === "not_in_a_room") {
          this.conversation.state(id, "Sending, a little slower…");
          await new Promise((resolve) => setTimeout(resolve, (answer.wait ?? 1) * 1000));
          continue;
        }
        this.#queue = this.#queue.filter((one) => one !== message);
        if (answer.error) this.#failed(message, answer);
        else this.conversation.state(id, "");
      }
    } catch {
      // Lost: the answer, or the message too. It goes again with its id, which the server knows if it has it.
      if (this.socket.state === "connected") this.#later(() => this.#pump(), 1000);
    } finally {
      this.#pumping = false;
    }
  }

  /** @param {Message} message @param {Refusal} error */
  #failed(message, { message: why }) {
    const again = () => {
      this.conversation.drop(message.id);
      this.#say(message.text);
    };
    this.conversation.state(message.id, `Not sent: ${why}.`, again, () => this.conversation.drop(message.id));
    announce(`Not sent: ${why}`);
  }

  // Who is here

  /** @param {{by: string, name: string, count: number}} person */
  #came({ by, name, count }) {
    this.#people.set(by, name);
    this.#count = count;
    this.#showPeople();
  }

  /** @param {{by: string, count: number}} person */
  #left({ by, count }) {
    this.conversation.typing(by, "", false);
    this.#people.delete(by);
    this.#count = count;
    this.#showPeople();
  }

  #showPeople() {
    const text = this.#count ? `${this.#count} ${this.#count === 1 ? "person" : "people"} here` : "";
    $("subtitle").textContent = text;
    const list = $("people").querySelector("ul");
    const people = [...this.#people].sort(([, one], [, other]) => one.localeCompare(other));
    list.replaceChildren(
      ...people.map(([by, name]) => {
        const item = element("li");
        item.append(element("i", hue(by)), element("bdi", "", name));
        if (by === this.#me) item.append(element("small", "", "you"));
        return item;
      }),
    );
    const more = this.#count - people.length;
    if (more > 0) list.append(element("li", "rest", `and ${more.toLocaleString()} more`));
  }

  #toggle() {
    const open = $("people").classList.toggle("open");
    $("show-people").setAttribute("aria-expanded", String(open));
  }

  async #share() {
    const button = $("share");
    const label = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(location.href);
      label.textContent = "Copied";
      button.classList.add("done");
      announce("The room's address is copied");
    } catch {
      label.textContent = "It is in the address bar";
    }
    setTimeout(() => {
      label.textContent = "Copy link";
      button.classList.remove("done");
    }, 2000);
  }
}
