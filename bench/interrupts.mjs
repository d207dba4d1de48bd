/**
 * SIGINT, SIGTERM and SIGHUP end the child that runs and with it the bench: what awaits the child throws, and all
 * that was made or mounted is taken away on the way out.
 */
import os from 'node:os';

let interruptedBy = null;
const children = new Set();

export class Interrupted extends Error {
  constructor(signal) {
    super(`interrupted by ${signal}`);
    this.exitStatus = 128 + os.constants.signals[signal];
  }
}

export function listen() {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      interruptedBy ??= signal;
      for (const child of children) child.kill('SIGTERM');
    });
  }
}

export function started(child) {
  children.add(child);
}

export function ended(child) {
  children.delete(child);
}

export function throwIfInterrupted() {
  if (interruptedBy !== null) throw new Interrupted(interruptedBy);
}
