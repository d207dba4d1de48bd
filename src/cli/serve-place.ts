/**
 * Where to listen: a socket that a dead server left is in nobody's way, one that somebody listens on stays. Of several servers
 * that begin or end at one path, one at a time looks and acts: each holds a lock on the folder meanwhile.
 */
import { randomBytes } from 'node:crypto';
import fs from 'node:fs';
import net from 'node:net';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { lockFolder } from '../device/host-calls.js';
import { errorCode, systemReason } from '../system-error.js';
import { QcowError } from '../errors.js';
import type { NbdServer, Place } from '../nbd/server.js';

/** Others hold it for moments only. */
const LOCK_TRIES = 250;
const LOCK_EVERY_MS = 20;

export interface Listening {
  /** Null where it is a socket of the file system. */
  port: number | null;
  /** Takes no more clients; what is at the path by now, if it is not our own, stays. Throws nothing. */
  leave: () => void;
}

/** Throws QcowError. */
export async function listenAt(server: NbdServer, place: Place): Promise<Listening> {
  if (!('socket' in place)) {
    const where = `port ${place.port} of ${place.host}`;
    return { port: await listen(server, place, where), leave: () => server.stopListening() };
  }
  const { socket } = place;
  const unlock = await enterFolder(socket);
  try {
    await removeStale(socket);
    await listen(server, place, socket);
    const own = fs.lstatSync(socket);
    return { port: null, leave: () => leaveSocket(server, socket, own) };
  } finally {
    unlock();
  }
}

async function listen(server: NbdServer, place: Place, where: string): Promise<number | null> {
  try {
    return await server.listen(place);
  } catch (error) {
    if (errorCode(error) === undefined) throw error;
    throw cannotListen(where, systemReason(error), error);
  }
}

/** Where folders cannot be locked it goes without: the answer then does nothing. */
async function enterFolder(socket: string): Promise<() => void> {
  let fd: number;
  try {
    fd = fs.openSync(dirname(socket), 'r');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') throw cannotListen(socket, 'its folder is missing', error);
    return () => undefined;
  }
  for (let tries = 0; ; tries++) {
    try {
      await lockFolder(fd);
      break;
    } catch (error) {
      if (errorCode(error) !== 'EAGAIN') break;
      if (tries === LOCK_TRIES) {
        fs.closeSync(fd);
        throw cannotListen(socket, 'another program keeps its folder locked', error);
      }
      await sleep(LOCK_EVERY_MS);
    }
  }
  return () => fs.closeSync(fd);
}

/** The host removes whatever is at the path: what is not our own is out of its way meanwhile. Throws nothing. */
function leaveSocket(server: NbdServer, path: string, own: fs.Stats): void {
  const aside = `${path}.${randomBytes(6).toString('hex')}`;
  const isAside = !isFreeOrOwn(path, own) && tryRename(path, aside);
  server.stopListening();
  if (isAside) tryRename(aside, path);
}

function isFreeOrOwn(path: string, own: fs.Stats): boolean {
  try {
    const found = fs.lstatSync(path, { throwIfNoEntry: false });
    return found === undefined || (found.ino === own.ino && found.dev === own.dev);
  } catch {
    return false;
  }
}

/** What may not be renamed may not be removed either, and so is safe where it is. */
function tryRename(from: string, to: string): boolean {
  try {
    fs.renameSync(from, to);
    return true;
  } catch {
    return false;
  }
}

function cannotListen(where: string, reason: string, cause: unknown): QcowError {
  return new QcowError('CANNOT_LISTEN', `cannot listen on ${where}: ${reason}`, { cause });
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
