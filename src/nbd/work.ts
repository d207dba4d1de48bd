/** What is under way for one client. */

export class Work {
  #count = 0;
  #most = 0;
  #onRoom: (() => void) | null = null;
  readonly #onFailure: (error: unknown) => void;

  /** `onFailure`: of work that should have answered its failure itself. */
  constructor(onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure;
  }

  get count(): number {
    return this.#count;
  }

  begin(work: Promise<void>): void {
    this.#count++;
    work.then(this.#end, this.#fail);
  }

  /** Waits until no more than `most` are under way; one at a time does. */
  async atMost(most: number): Promise<void> {
    if (this.#count <= most) return;
    this.#most = most;
    await new Promise<void>((resolve) => (this.#onRoom = resolve));
  }

  readonly #end = (): void => {
    this.#count--;
    if (this.#onRoom === null || this.#count > this.#most) return;
    this.#onRoom();
    this.#onRoom = null;
  };

  readonly #fail = (error: unknown): void => {
    this.#onFailure(error);
    this.#end();
  };
}
