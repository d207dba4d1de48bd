/** Where to listen: a socket that a dead server left is in nobody's way, one that somebody listens on stays. */
import fs from 'node:fs';
import net from 'node:net';
import { errorCode, systemReason } from '../system-error.js';
import { QcowError } from '../errors.js';
import type { NbdServer, Place } from '../nbd/server.js';

/** The port, or null where it is a socket of the file system. Throws QcowError. */
export async function listenAt(server: NbdServer, place: Place): Promise<number | null> {
  if ('socket' in place) await removeStale(place.socket);
  try {
    return await server.listen(place);
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    const where = 'socket' in place ? place.socket : `port ${place.port} of ${place.host}`;
    throw new QcowError('CANNOT_LISTEN', `cannot listen on ${where}: ${systemReason(error)}`, {
      cause: error,
    });
  }
}

async function removeStale(path: string): Promise<void> {
  const found = fs.lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) throw new QcowError('CANNOT_LISTEN', `${path} is there already, and is no socket`);
  if (await isListenedOn(path))
    throw new QcowError('CANNOT_LISTEN', `somebody listens on ${path}`, { hint: 'name another socket' });
  fs.rmSync(path, { force: true });
}

/** Only a refusal says that nobody does. */
function isListenedOn(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => resolve(errorCode(error) !== 'ECONNREFUSED'));
  });
}

/** As clients take it: `nbd+unix:///NAME?socket=PATH`, `nbd://HOST:PORT/NAME`; `nbds` with TLS. */
export function uriOf(place: Place, port: number | null, exportName: string, withTls: boolean): string {
  const name = encodeURIComponent(exportName);
  if ('socket' in place) {
    const path = encodeURIComponent(place.socket).replaceAll('%2F', '/');
    return `nbd+unix:///${name}?socket=${path}`;
  }
  const host = place.host.includes(':') ? `[${place.host}]` : place.host;
  return `${withTls ? 'nbds' : 'nbd'}://${host}:${port ?? place.port}/${name}`;
}
