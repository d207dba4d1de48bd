/**
 * Which images are worked on at the same time. In the order of the command line, but for three rules: no file is open
 * twice, each file system gets a job before one gets a second, and what all need of memory stays below a budget.
 */

export interface Job {
  /** Names the file: a path, a symbolic link and a hard link of one file have the same. */
  file: string;
  fileSystem: string;
  memoryBytes: number;
}

export interface Limits {
  /** Jobs at the same time. */
  jobs: number;
  /** Of these, so many on one file system. */
  perFileSystem: number;
  /** One job alone may need more. */
  memoryBytes: number;
}

/**
 * Runs the jobs by their index. Once `stopped`, or after a failure of `run`, nothing starts any more. Settles when all
 * that was started has ended.
 */
export function runJobs(
  jobs: readonly Job[],
  limits: Limits,
  stopped: () => boolean,
  run: (index: number) => Promise<void>,
): Promise<void> {
  return new Schedule(jobs, limits, stopped, run).toTheEnd();
}

class Schedule {
  readonly #jobs: readonly Job[];
  readonly #limits: Limits;
  readonly #stopped: () => boolean;
  readonly #run: (index: number) => Promise<void>;
  /** Ascending: the order of the command line. */
  #waiting: number[];
  readonly #running = new Map<number, Promise<void>>();

  constructor(
    jobs: readonly Job[],
    limits: Limits,
    stopped: () => boolean,
    run: (index: number) => Promise<void>,
  ) {
    this.#jobs = jobs;
    this.#limits = limits;
    this.#stopped = stopped;
    this.#run = run;
    this.#waiting = [...jobs.keys()];
  }

  async toTheEnd(): Promise<void> {
    for (;;) {
      for (let next = this.#next(); next !== undefined; next = this.#next()) this.#start(next);
      if (this.#running.size === 0) return;
      try {
        await Promise.race(this.#running.values());
      } catch (error) {
        // A mistake in this program, which ends it: but nothing that writes to an image is left behind.
        await Promise.allSettled(this.#running.values());
        throw error;
      }
    }
  }

  #start(index: number): void {
    this.#waiting = this.#waiting.filter((waiting) => waiting !== index);
    const done = this.#run(index).finally(() => this.#running.delete(index));
    this.#running.set(index, done);
  }

  /** The first of those that may start on the file system that is least at work. */
  #next(): number | undefined {
    if (this.#stopped() || this.#running.size >= this.#limits.jobs) return undefined;
    const running = [...this.#running.keys()].map((index) => this.#jobs[index]!);
    const loads = new Map<string, number>();
    for (const { fileSystem } of running) loads.set(fileSystem, (loads.get(fileSystem) ?? 0) + 1);
    const memoryInUse = running.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
    /** Of those that run, and of those that wait and come first. */
    const files = new Set(running.map(({ file }) => file));

    let best: number | undefined;
    let bestLoad = this.#limits.perFileSystem;
    for (const index of this.#waiting) {
      const { file, fileSystem, memoryBytes } = this.#jobs[index]!;
      const isFirst = !files.has(file);
      files.add(file);
      const fits = running.length === 0 || memoryInUse + memoryBytes <= this.#limits.memoryBytes;
      const load = loads.get(fileSystem) ?? 0;
      if (!isFirst || !fits || load >= bestLoad) continue;
      best = index;
      bestLoad = load;
      if (load === 0) break;
    }
    return best;
  }
}
