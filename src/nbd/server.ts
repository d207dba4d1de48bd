/** Serves a disk to many clients at a time, on a socket of the file system or on a port. */
import { once } from 'node:events';
import net from 'node:net';
import { Budget } from './budget.js';
import { BufferPool, PIECE_BYTES } from './buffer-pool.js';
import { Connection } from './connection.js';
import type { Control } from './control.js';
import type { ProtocolError } from './errors.js';
import { Door } from './door.js';
import type { Export } from './export.js';
import type { TlsFiles } from './tls.js';
import { type Traffic, noTraffic } from './traffic.js';

/** Each has a floor of memory: no more are let in. */
const MOST_CLIENTS = 64;
/** Who have not said yet what they want. */
const MOST_NEWCOMERS = 32;
/** Who command the server, with all the time that it takes. */
const MOST_COMMANDS = 16;
/** Data of requests under way, beyond the floors. */
const SHARED_BYTES = 24 << 20;
/** That clients have to take their last replies when the server ends. */
const STOP_MS = 5_000;

export type Place = { socket: string } | { port: number; host: string };

export interface ServerEvents {
  /** The disk failed a request; the client has been told. */
  onFailure?: (error: unknown) => void;
  /** One has become a client of the disk. */
  onBegin?: () => void;
  /** A client has gone, or somebody who was none yet has been cut off: `problem` says what did not keep to the protocol. */
  onEnd?: (problem: ProtocolError | null) => void;
}

export interface ServerOptions extends ServerEvents {
  served: Export;
  tls?: TlsFiles | null;
  /** Takes commands to the server itself. */
  control?: Control;
  negotiationMs?: number;
  mostClients?: number;
}

export class NbdServer {
  readonly traffic: Traffic = noTraffic();
  readonly budget = new Budget(SHARED_BYTES, PIECE_BYTES);
  readonly #options: ServerOptions;
  readonly #pool = new BufferPool();
  readonly #connections = new Set<Connection>();
  readonly #door: Door;
  readonly #listener: net.Server;
  /** Changes that the last flush for one that went was for. */
  #changesFlushed = 0;
  #onEmpty: (() => void) | null = null;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#listener = net.createServer({ noDelay: true, keepAlive: true, allowHalfOpen: true }, (socket) => {
      void this.#serve(socket);
    });
    const { mostClients = MOST_CLIENTS } = options;
    this.#door = new Door(mostClients, MOST_NEWCOMERS, MOST_COMMANDS);
    this.#listener.maxConnections = mostClients + MOST_NEWCOMERS + MOST_COMMANDS;
  }

  /** All of them, whether they are clients or not yet. */
  get connections(): number {
    return this.#connections.size;
  }

  /** Rejects with the host's error. Resolves with the port that was chosen where `place` names 0. */
  async listen(place: Place): Promise<number | null> {
    const listening = once(this.#listener, 'listening');
    this.#listener.listen('socket' in place ? { path: place.socket } : place);
    await listening;
    const address = this.#listener.address();
    return address !== null && typeof address === 'object' ? address.port : null;
  }

  /** Takes no more clients. At once, what is at the path of its socket is removed. */
  stopListening(): void {
    if (this.#listener.listening) this.#listener.close();
  }

  /** Takes no more clients, answers what is under way, and resolves when all have gone; those that stay are cut off. */
  async stop(withinMs = STOP_MS): Promise<void> {
    this.stopListening();
    for (const connection of this.#connections) connection.stop();
    if (this.#connections.size === 0) return;
    const timer = setTimeout(() => {
      for (const connection of this.#connections) connection.cut();
    }, withinMs);
    await new Promise<void>((resolve) => (this.#onEmpty = resolve));
    clearTimeout(timer);
  }

  async #serve(socket: net.Socket): Promise<void> {
    const { served, tls = null, control, negotiationMs, onFailure, onBegin, onEnd } = this.#options;
    const connection = new Connection(socket, {
      ...{ served, tls, control, negotiationMs },
      ...{ budget: this.budget, pool: this.#pool, traffic: this.traffic },
      onFailure: (error) => onFailure?.(error),
      door: this.#door,
      onBegin: () => {
        this.traffic.clients++;
        onBegin?.();
      },
    });
    this.#connections.add(connection);
    let problem: ProtocolError | null = null;
    try {
      problem = await connection.run();
    } catch (error) {
      onFailure?.(error);
    }
    this.#connections.delete(connection);
    const wasClient = this.#door.leave(connection);
    if (wasClient) this.traffic.clients--;
    this.#flushBehind();
    if (wasClient || problem !== null) onEnd?.(problem);
    if (this.#connections.size === 0) this.#onEmpty?.();
  }

  /** A client that went without a flush has written in vain if the host then fails: that need not be. */
  #flushBehind(): void {
    const { served, onFailure } = this.#options;
    if (this.traffic.changes === this.#changesFlushed) return;
    this.#changesFlushed = this.traffic.changes;
    served.disk.flush().catch((error: unknown) => onFailure?.(error));
  }
}
