/**
 * Wakes whoever waits for work (recycler contract C10). Take `version`, look for work, then wait with it: a
 * wake-up that comes between the look and the wait ends the wait at once.
 */
export class WorkSignal {
  #version = 0;
  #waiting: (() => void)[] = [];

  /** How often the signal has been raised. */
  get version(): number {
    return this.#version;
  }

  raise(): void {
    this.#version++;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  /** Resolves when the signal has been raised after `version` was `seen`. */
  wait(seen: number): Promise<void> {
    if (seen !== this.#version) return Promise.resolve();
    return new Promise((wake) => this.#waiting.push(wake));
  }
}
