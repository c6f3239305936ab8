// @ts-check
/** A stranger: one talk at a time, kept nowhere. */

import { $, Conversation, announce, opens } from "./conversation.js";
import { Outbox } from "./outbox.js";
import { Socket } from "./partyline.js";

/** @param {string} text */
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + ".";

/** @typedef {"idle" | "waiting" | "talking" | "over"} State */

export class Strangers {
  /** @type {State | ""} */
  #state = "";
  #run = ""; // which run of the server this is
  #turn = 0; // counts what ends a search
  #stopping = 0; // stops that are not answered yet
  /** @type {Promise<any>} the last answer to stop */
  #stopped = Promise.resolve();
  #ids = 0;
  #gone = new AbortController();
  /** @type {Conversation} */
  conversation;
  /** @type {Outbox | undefined} of this talk */
  #outbox;

  /** @param {string} key @param {(socket: Socket, signal: AbortSignal) => void} watch */
  constructor(key, watch) {
    const { signal } = this.#gone;
    $("title").textContent = "Stranger";
    $("online").textContent = "";
    this.conversation = this.#fresh();
    this.#become("idle");
    this.socket = new Socket("/stranger", { auth: { key }, base: 500, cap: 8000 });
    this.socket.addEventListener("state", (event) => this.#turned(/** @type {CustomEvent} */ (event).detail.state));
    this.socket.on("hello", ({ run }) => this.#hello(run));
    this.socket.on("online", (count) => this.#online(count));
    this.socket.on("paired", () => this.#paired());
    this.socket.on("left", () => this.#over("The stranger has left."));
    this.socket.on("elsewhere", () => this.#elsewhere());
    this.socket.on("said", ({ text, time }) => this.#hear(text, time));
    this.socket.on("typing", (on) => this.#state === "talking" && this.conversation.typing("them", "The stranger", on));
    watch(this.socket, signal);
    /** @param {string} id @param {() => void} act */
    const on = (id, act) =>
      // The second click of a double one means what the first did, not what the button has become.
      $(id).addEventListener("click", (/** @type {MouseEvent} */ { detail }) => detail === 2 || act(), { signal });
    on("start", () => (this.#state === "waiting" ? this.#stop() : this.#start("start")));
    on("next", () => this.#start("next"));
    on("stop", () => this.#stop());
    on("block", () => this.#shut("block", "You will not meet this stranger again."));
    on("report", () => this.#shut("report", "Reported. You will not meet this stranger again."));
    const [button, items] = $("more").children;
    opens(button, items, signal);
  }

  close() {
    this.#gone.abort();
    this.conversation.close();
    this.socket.close();
  }

  #fresh() {
    this.conversation?.close();
    this.#outbox?.end("the talk is over");
    const conversation = new Conversation({
      send: (text) => this.#outbox?.say(text),
      typing: (on) => this.#state === "talking" && this.socket.emit("typing", on),
    });
    conversation.name("Stranger");
    $("text").placeholder = "Message";
    return conversation;
  }

  /** @param {State} state */
  #become(state) {
    const changed = state !== this.#state;
    this.#state = state;
    if (state !== "talking" && $("more").contains(document.activeElement)) $("title").focus();
    const apart = state === "idle" || state === "waiting";
    $("meet").hidden = !apart;
    $("scroller").hidden = $("composer").hidden = apart;
    $("more").hidden = state !== "talking";
    $("stop").hidden = state !== "talking" && state !== "over";
    $("stop").textContent = state === "over" ? "Finish" : "Stop";
    $("next").hidden = apart;
    $("start").textContent = state === "waiting" ? "Stop" : "Start";
    $("start").className = state === "waiting" ? "quiet large" : "primary large";
    $("subtitle").textContent = { idle: "", waiting: "", talking: "Talking", over: "The talk is over" }[state];
    if (state === "idle") this.#meet("Talk to a stranger", "You are paired with somebody at random. Nothing you say is kept.");
    this.#reached();
    this.conversation.enable(state === "talking");
    if (state !== "talking") this.conversation.quiet();
    if (!changed || !apart) return;
    // Not onto the button: who presses twice means it once.
    $("meet-text").focus();
    announce(state === "waiting" ? $("meet-text").textContent : "");
  }

  /** What depends on whether the server is there. */
  #reached() {
    const there = this.socket?.state === "connected";
    const waiting = this.#state === "waiting";
    $("start").disabled = !there && !waiting;
    $("meet").classList.toggle("waiting", there && waiting);
    if (!waiting) return;
    $("subtitle").textContent = there ? "Looking for somebody" : "No connection";
    if (there) this.#meet("Looking for somebody…", "As soon as anyone else presses start, you are connected.");
    else this.#meet("No connection", "The search goes on as soon as the server is there again.");
  }

  /** @param {string} text @param {string} about */
  #meet(text, about) {
    $("meet-text").textContent = text;
    $("meet-about").textContent = about;
  }

  /** @param {number} count */
  #online(count) {
    $("online").textContent =
      count > 1 ? `${count.toLocaleString()} people are here, you among them` : "You are the only one here at the moment";
  }

  // What the server says

  /** @param {string} state */
  #turned(state) {
    this.#reached();
    if (state === "connected") return;
    $("online").textContent = "";
    // Nobody knows of the talk any more but this page, and why is known with the next connection.
    if (this.#state === "talking") {
      this.conversation.enable(false);
      this.conversation.quiet();
    }
  }

  /** @param {string} run */
  #hello(run) {
    const restarted = this.#run && this.#run !== run;
    this.#run = run;
    if (this.#state === "talking") {
      this.#over(restarted ? "The server restarted: this talk has ended." : "Your connection was lost: this talk has ended.");
    } else if (this.#state === "waiting") this.#start("start");
  }

  #paired() {
    if (this.#state !== "waiting" || this.#stopping) return; // it crossed a stop, which ends that talk
    const conversation = (this.conversation = this.#fresh());
    this.#outbox = new Outbox(conversation, this.socket, {
      sent: (message) => conversation.add({ ...message, mine: true }),
      over: () => this.#over("The stranger has left."),
    });
    this.#outbox.open(true);
    this.#turn += 1;
    this.#become("talking");
    this.conversation.notice("You are connected with a stranger. Say hello.");
    this.conversation.focus();
  }

  #elsewhere() {
    if (this.#state !== "waiting" || this.#stopping) return;
    this.#turn += 1;
    this.#become("idle");
    this.#meet("Not here any more", "You are looking for somebody in another window.");
    announce("You are looking for somebody in another window");
  }

  /** @param {string} text */
  #over(text) {
    if (this.#state !== "talking") return;
    this.#become("over");
    this.#outbox?.end("the talk is over");
    this.conversation.notice(text); // and the focus stays: somebody may be typing
  }

  /** @param {string} text @param {number} time */
  #hear(text, time) {
    if (this.#state === "talking") this.conversation.add({ id: `t${this.#ids++}`, by: "them", text, time });
  }

  // What one does

  /** @param {string} event @returns {Promise<any>} the answer, an error as one */
  async #ask(event) {
    try {
      return (await this.socket.call(event)) ?? {};
    } catch (/** @type {any} */ { code }) {
      if (code === "timeout") {
        // Nobody knows whether the server has heard it. Of a new connection it knows nothing yet.
        this.socket.close();
        this.socket.open();
      }
      return { error: "lost", message: "there is no connection" };
    }
  }

  /** @param {"start" | "next"} how */
  async #start(how) {
    this.conversation = this.#fresh(); // nothing of the last talk stays on the page
    this.#become("waiting");
    const turn = ++this.#turn;
    await this.#stopped;
    if (turn !== this.#turn) return;
    const { error, message } = await this.#ask(how);
    if (!error || error === "lost" || turn !== this.#turn) return; // a lost search goes on with the next connection
    this.#become("idle");
    this.#meet(error === "rate_limited" ? "Not so fast" : "Not now", sentence(message));
    announce(message);
  }

  #stop() {
    this.conversation = this.#fresh();
    this.#become("idle");
    announce("Stopped");
    this.#turn += 1;
    this.#stopping += 1;
    this.#stopped = this.#ask("stop").finally(() => (this.#stopping -= 1));
  }

  /** @param {"block" | "report"} how @param {string} text */
  async #shut(how, text) {
    const { conversation } = this;
    const { error, message } = await this.#ask(how);
    if (error) conversation.notice(`That failed: ${message}.`);
    else if (this.#state === "talking") this.#over(text);
    else if (conversation === this.conversation) conversation.notice(text); // the other one was faster
  }
}
