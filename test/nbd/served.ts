/** A server in memory, or on a socket of the file system, for the length of a test. */
import net from 'node:net';
import { onTestFinished } from 'vitest';
import { Budget } from '../../src/nbd/budget.js';
import { BufferPool, PIECE_BYTES } from '../../src/nbd/buffer-pool.js';
import { Connection, type ConnectionOptions } from '../../src/nbd/connection.js';
import { Door } from '../../src/nbd/door.js';
import type { ProtocolError } from '../../src/nbd/errors.js';
import { NbdServer, type ServerOptions } from '../../src/nbd/server.js';
import { noTraffic } from '../../src/nbd/traffic.js';
import { Client } from './client.js';
import type { MemoryDisk } from './memory-disk.js';
import { pair } from './pair.js';

export interface InMemory {
  client: Client;
  connection: Connection;
  budget: Budget;
  failures: unknown[];
  ended: Promise<ProtocolError | null>;
}

/** One connection, without a host between. */
export function connectTo(
  disk: MemoryDisk,
  options: Partial<ConnectionOptions> & { name?: string } = {},
): InMemory {
  const [ours, theirs] = pair();
  const failures: unknown[] = [];
  const budget = options.budget ?? new Budget(4 * PIECE_BYTES, PIECE_BYTES);
  const connection = new Connection(theirs, {
    served: { name: options.name ?? '', disk },
    ...{ tls: null, budget, pool: new BufferPool(), traffic: noTraffic() },
    onFailure: (error) => failures.push(error),
    door: new Door(1, 1, 1),
    ...options,
  });
  return { client: new Client(ours), connection, budget, failures, ended: connection.run() };
}

export interface Served {
  server: NbdServer;
  failures: unknown[];
  problems: (ProtocolError | null)[];
  connect: () => Client;
}

export async function serveAt(
  path: string,
  disk: MemoryDisk,
  options: Partial<ServerOptions> = {},
): Promise<Served> {
  const failures: unknown[] = [];
  const problems: (ProtocolError | null)[] = [];
  const server = new NbdServer({
    served: { name: '', disk },
    onFailure: (error) => failures.push(error),
    onEnd: (problem) => problems.push(problem),
    ...options,
  });
  await server.listen({ socket: path });
  onTestFinished(() => server.stop(100));
  return { server, failures, problems, connect: () => new Client(net.connect({ path })) };
}
