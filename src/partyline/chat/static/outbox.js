// @ts-check
/** Own messages on their way: one after the other, each with its id until the server has it. */

import { announce } from "./conversation.js";
import { session } from "./kept.js";

/** @typedef {import("./conversation.js").Message & {tried?: boolean}} Message `tried`: the server may have it */
/** @typedef {{error: string, message: string, field?: string, wait?: number}} Refusal */

const MOST_KEPT = 200; // messages of one room that outlive its view
const LATER = ["rate_limited", "not_in_a_room"]; // what only takes time

export class Outbox {
  /** @type {Message[]} what the server has not confirmed, in order */
  #unsent = [];
  /** @type {Set<string>} ids of those that it refused, until they are tried again */
  #refused = new Set();
  #pumping = false;
  #open = false;

  /**
   * @param {import("./conversation.js").Conversation} conversation where they are shown
   * @param {import("./partyline.js").Socket} socket
   * @param {{kept?: string, sent?: (message: Message) => void, over?: () => void}} doing
   *   `kept`: the name by which they outlive this view and a reload of the page. `sent`: the server has one. `over`:
   *   there is nobody any more to whom they could go
   */
  constructor(conversation, socket, doing) {
    this.conversation = conversation;
    this.socket = socket;
    this.doing = doing;
    if (!doing.kept) return;
    try {
      this.#unsent = JSON.parse(session.get(doing.kept) || "[]");
    } catch {
      // not ours
    }
    for (const message of this.#unsent) conversation.pending(message);
  }

  /** The one that the server may or may not have: its answer was lost. */
  get doubtful() {
    return this.#unsent.find(({ id, tried }) => tried && !this.#refused.has(id));
  }

  /** Whether messages go out now. @param {boolean} may */
  open(may) {
    this.#open = may;
    this.#pump();
  }

  /** Send nothing any more, and say why of what is not sent. @param {string} why */
  end(why) {
    this.#open = false;
    for (const { id } of this.#unsent) this.conversation.state(id, `Not sent: ${why}.`, {});
    this.#unsent = [];
  }

  /** @param {string} text */
  say(text) {
    const random = crypto.getRandomValues(new Uint8Array(12));
    const id = Array.from(random, (b) => b.toString(36).padStart(2, "0")).join("");
    const message = { id, by: "me", text, time: Date.now() };
    this.conversation.pending(message);
    this.#unsent.push(message);
    this.#keep();
    this.#pump();
  }

  /** The server has these. @param {{id: string}[]} messages */
  known(messages) {
    const ids = new Set(messages.map(({ id }) => id));
    this.#unsent = this.#unsent.filter(({ id }) => !ids.has(id));
    this.#keep();
  }

  #keep() {
    const { kept } = this.doing;
    if (kept) session.set(kept, this.#unsent.length ? JSON.stringify(this.#unsent.slice(0, MOST_KEPT)) : "");
  }

  async #pump() {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (;;) {
        const message = this.#open && this.#unsent.find(({ id }) => !this.#refused.has(id));
        if (!message) break;
        const { id, text } = message;
        message.tried = true;
        this.#keep();
        const answer = await this.socket.call("say", { id, text });
        if (!this.#unsent.includes(message)) continue; // ended meanwhile
        if (LATER.includes(answer.error)) {
          this.conversation.state(id, "Sending, a little slower…");
          await new Promise((resolve) => setTimeout(resolve, (answer.wait ?? 1) * 1000));
        } else if (answer.error === "no_partner") {
          this.doing.over?.();
        } else if (answer.error) {
          this.#refuse(id, answer);
        } else {
          this.known([message]);
          this.conversation.state(id, "");
          this.doing.sent?.(message);
        }
      }
    } catch {
      // Lost: the answer, or the message too. It goes again with its id, which the server knows if it has it.
      if (this.socket.state === "connected") setTimeout(() => this.#pump(), 1000);
    } finally {
      this.#pumping = false;
    }
  }

  /** @param {string} id @param {Refusal} error */
  #refuse(id, { message: why }) {
    this.#refused.add(id);
    const again = () => {
      this.#refused.delete(id);
      this.conversation.state(id, "Sending…");
      this.#pump();
    };
    const discard = () => {
      this.conversation.drop(id);
      this.known([{ id }]);
    };
    this.conversation.state(id, `Not sent: ${why}.`, { "Try again": again, Discard: discard });
    announce(`Not sent: ${why}`);
  }
}
