/** Ends a test process that hangs in a loop, which no timeout of the test runner can, and says where. */
import { Worker } from 'node:worker_threads';

const CODE = `
const { workerData } = require('node:worker_threads');
const seen = new Float64Array(workerData.shared);
setInterval(() => {
  if (seen[0] === 0 || Date.now() - seen[0] < workerData.limit) return;
  require('node:fs').writeSync(2, 'hung: ' + workerData.what + ' ' + seen[1] + '\\n');
  process.kill(process.pid, 'SIGKILL');
}, 500);
`;

export class Watchdog {
  readonly #seen: Float64Array;
  readonly #worker: Worker;

  constructor(what: string, limitMilliseconds = 30_000) {
    const shared = new SharedArrayBuffer(16);
    this.#seen = new Float64Array(shared);
    this.#worker = new Worker(CODE, {
      eval: true,
      execArgv: [],
      workerData: { shared, what, limit: limitMilliseconds },
    });
  }

  /** Begins number `index`; the one before has come to an end. */
  next(index: number): void {
    this.#seen[1] = index;
    this.#seen[0] = Date.now();
  }

  async end(): Promise<void> {
    this.#seen[0] = 0;
    await this.#worker.terminate();
  }
}
