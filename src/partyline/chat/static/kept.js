// @ts-check
/** What is kept in this browser, by name. Where storage is forbidden or full, it lasts until the page is left. */

class Kept {
  /** @type {Map<string, string>} what storage did not take */
  #here = new Map();

  /** @param {() => Storage} storage asked each time: a browser that forbids it throws */
  constructor(storage) {
    this.storage = storage;
  }

  /** @param {string} what @returns {string} */
  get(what) {
    try {
      return this.#here.get(what) ?? this.storage().getItem("partyline." + what) ?? "";
    } catch {
      return "";
    }
  }

  /** @param {string} what @param {string} value nothing: forget it */
  set(what, value) {
    this.#here.delete(what);
    try {
      if (value) this.storage().setItem("partyline." + what, value);
      else this.storage().removeItem("partyline." + what);
    } catch {
      this.#here.set(what, value);
    }
  }
}

/** For all tabs, and for good. */
export const lasting = new Kept(() => localStorage);
/** For this tab, over a reload. */
export const session = new Kept(() => sessionStorage);
