// @ts-check
/** A room: its log, and who is here. */

import { $, Conversation, announce, element, hue, opens } from "./conversation.js";
import { Outbox } from "./outbox.js";
import { Socket } from "./partyline.js";

const PAGES = 10; // that are looked through for what is known already, after a long absence
const ASTRAY = 3_600_000; // ms by which the clocks of a page and of the server may differ

/** @typedef {import("./conversation.js").Message} Message */
/** @typedef {import("./outbox.js").Refusal} Refusal */

export class Room {
  #me = "";
  /** @type {Map<string, string>} names by person */
  #people = new Map();
  #count = 0;
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
      send: (text) => {
        this.outbox.say(text);
        this.#begin();
      },
      typing: (on) => this.socket.emit("typing", on),
      older: () => this.#older(),
      draft: "draft." + who.room,
    });
    this.#name(who.room);
    this.conversation.enable(true);
    $("subtitle").textContent = "";
    $("meet").hidden = true;
    $("scroller").hidden = $("composer").hidden = false;
    this.#showPeople();

    this.socket = new Socket("/chat", { base: 500, cap: 8000 });
    this.outbox = new Outbox(this.conversation, this.socket, { kept: "unsent." + who.room });
    this.socket.addEventListener("state", (event) => this.#turned(/** @type {CustomEvent} */ (event).detail.state));
    this.socket.on("said", (message) => {
      this.conversation.add(this.#own(message));
      this.#begin();
    });
    this.socket.on("typing", ({ by, name, on }) => by === this.#me || this.conversation.typing(by, name, on));
    this.socket.on("came", (person) => this.#came(person));
    this.socket.on("left", (person) => this.#left(person));
    watch(this.socket, signal);
    $("share").addEventListener("click", () => this.#share(), { signal });
    opens($("show-people"), $("people"), signal);
    this.conversation.focus();
  }

  close() {
    this.#gone.abort();
    this.outbox.open(false);
    this.conversation.close();
    this.socket.close();
  }

  /** @param {string} room */
  #name(room) {
    this.conversation.name(room);
    $("title").textContent = room;
    $("text").placeholder = "Message " + room;
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
      this.outbox.open(false);
      this.conversation.quiet();
    }
  }

  /** Come in, and bring what is here up to date. */
  async #enter() {
    const { conversation, outbox } = this;
    try {
      const answer = await this.socket.call("enter", this.who);
      if (answer.field) return this.refused(answer);
      if (answer.error) return this.#later(() => this.#enter(), 2000);
      this.#me = answer.me;
      this.#name(answer.room);
      this.#people = new Map(answer.people.map((/** @type {any} */ { by, name }) => [by, name]));
      this.#count = answer.count;
      this.#showPeople();
      const fresh = conversation.empty;
      let { messages, before } = answer;
      const met = () => messages.some((/** @type {Message} */ { id }) => conversation.has(id));
      // A message whose answer was lost may stand in the log, though the server has forgotten its id.
      const { id: doubtful, time = Infinity } = outbox.doubtful ?? {};
      const settled = () =>
        messages.some((/** @type {Message} */ one) => one.id === doubtful || one.time < time - ASTRAY);
      for (let page = 1; before && !(fresh ? !doubtful || settled() : met()) && page < PAGES; page++) {
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
      outbox.known(messages);
      this.#inside = true;
      outbox.open(true);
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
    if (this.#before || !this.#me) this.conversation.top("");
    else this.conversation.top($("log").children.length ? "Here it begins." : "Nothing has been said here yet.");
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
