/**
 * Who is let in: so many clients of the disk, so many who command the server, and beside them so many who have yet to say what
 * they want. Of these the oldest makes room for the next, so that silence, for which no certificate is needed, keeps nobody out.
 */

export interface Comer {
  /** Ends it at once. */
  cut(): void;
}

export class Door {
  readonly #mostClients: number;
  readonly #mostNewcomers: number;
  readonly #mostCommanders: number;
  readonly #clients = new Set<Comer>();
  readonly #commanders = new Set<Comer>();
  /** In the order in which they came, or did last what a stranger cannot. */
  readonly #newcomers = new Set<Comer>();

  constructor(mostClients: number, mostNewcomers: number, mostCommanders: number) {
    this.#mostClients = mostClients;
    this.#mostNewcomers = mostNewcomers;
    this.#mostCommanders = mostCommanders;
  }

  /** It has come, or its command is done. */
  arrive(comer: Comer): void {
    this.#commanders.delete(comer);
    if (this.#newcomers.size >= this.#mostNewcomers) {
      const [oldest] = this.#newcomers;
      this.#newcomers.delete(oldest!);
      oldest!.cut();
    }
    this.#newcomers.add(comer);
  }

  /** It has spoken TLS. */
  renew(comer: Comer): void {
    if (this.#newcomers.delete(comer)) this.#newcomers.add(comer);
  }

  /** It commands the server, and may take its time; false where there are enough who do. */
  command(comer: Comer): boolean {
    if (this.#commanders.size >= this.#mostCommanders) return false;
    this.#newcomers.delete(comer);
    this.#commanders.add(comer);
    return true;
  }

  /** It wants the disk; false where there are clients enough. */
  admit(comer: Comer): boolean {
    if (this.#clients.size >= this.#mostClients) return false;
    this.#newcomers.delete(comer);
    this.#clients.add(comer);
    return true;
  }

  /** True where it was a client. */
  leave(comer: Comer): boolean {
    this.#newcomers.delete(comer);
    this.#commanders.delete(comer);
    return this.#clients.delete(comer);
  }
}
