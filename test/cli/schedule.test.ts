/** Which images are worked on at the same time, over jobs that end when the test says so. */
import { describe, expect, test } from 'vitest';
import { type Job, type Limits, runJobs } from '../../src/cli/schedule.js';
import { Random } from '../support/random.js';

class Rig {
  readonly started: number[] = [];
  readonly ended: number[] = [];
  isStopped = false;
  isOver = false;
  readonly #jobs: Job[];
  readonly #ends = new Map<number, () => void>();
  readonly over: Promise<void>;

  constructor(jobs: Partial<Job>[], limits: Partial<Limits> = {}) {
    this.#jobs = jobs.map((job, index) => ({
      file: `file ${index}`,
      fileSystem: 'a',
      memoryBytes: 1,
      ...job,
    }));
    const all = { jobs: 2, perFileSystem: Infinity, memoryBytes: 100, ...limits };
    this.over = runJobs(
      this.#jobs,
      all,
      () => this.isStopped,
      (index) => this.#run(index),
    ).then(() => {
      this.isOver = true;
    });
  }

  #run(index: number): Promise<void> {
    this.started.push(index);
    return new Promise((resolve) => this.#ends.set(index, resolve));
  }

  get running(): number[] {
    return [...this.#ends.keys()].sort((a, b) => a - b);
  }

  jobsRunning(): Job[] {
    return this.running.map((index) => this.#jobs[index]!);
  }

  async end(index: number): Promise<void> {
    const end = this.#ends.get(index);
    if (end === undefined) throw new Error(`job ${index} does not run`);
    this.#ends.delete(index);
    this.ended.push(index);
    end();
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const on = (fileSystem: string) => ({ fileSystem });

describe('on one file system', () => {
  test('so many run as are allowed, in their order', async () => {
    const rig = new Rig([{}, {}, {}, {}], { jobs: 2 });
    expect(rig.running).toEqual([0, 1]);
    await rig.end(1);
    expect(rig.running).toEqual([0, 2]);
    await rig.end(0);
    expect(rig.running).toEqual([2, 3]);
    await rig.end(2);
    await rig.end(3);
    expect(rig.isOver).toBe(true);
  });

  test('no more than it may have at a time run', async () => {
    const rig = new Rig([on('a'), on('a'), on('b')], { jobs: 3, perFileSystem: 1 });
    expect(rig.running).toEqual([0, 2]);
    await rig.end(2);
    expect(rig.running).toEqual([0]);
    await rig.end(0);
    expect(rig.running).toEqual([1]);
  });

  test('nothing at all is over at once', async () => {
    await new Rig([]).over;
  });
});

describe('on several file systems', () => {
  test('each gets a job before one gets a second', async () => {
    const rig = new Rig([on('a'), on('a'), on('a'), on('b'), on('b'), on('c')], { jobs: 4 });
    expect(rig.started).toEqual([0, 3, 5, 1]);
    // b has none any more: it comes before a third of a.
    await rig.end(3);
    expect(rig.running).toEqual([0, 1, 4, 5]);
    await rig.end(5);
    expect(rig.running).toEqual([0, 1, 2, 4]);
  });
});

describe('the same file', () => {
  test('is never open twice: the later one waits for the earlier, and others go before it', async () => {
    const rig = new Rig([{ file: 'x' }, { file: 'x' }, {}, { file: 'x' }, {}], { jobs: 3 });
    expect(rig.running).toEqual([0, 2, 4]);
    await rig.end(2);
    expect(rig.running).toEqual([0, 4]);
    await rig.end(0);
    expect(rig.running).toEqual([1, 4]);
    await rig.end(1);
    expect(rig.running).toEqual([3, 4]);
  });

  test('keeps its order where the earlier one waits for memory', async () => {
    const jobs = [{ memoryBytes: 60 }, { file: 'x', memoryBytes: 60 }, { file: 'x', memoryBytes: 1 }];
    const rig = new Rig(jobs, { jobs: 3 });
    expect(rig.running).toEqual([0]);
    await rig.end(0);
    expect(rig.running).toEqual([1]);
  });
});

describe('memory', () => {
  test('is not given out beyond its budget; what fits goes before what does not', async () => {
    const jobs = [{ memoryBytes: 60 }, { memoryBytes: 50 }, { memoryBytes: 40 }, { memoryBytes: 1 }];
    const rig = new Rig(jobs, { jobs: 4 });
    expect(rig.running).toEqual([0, 2]);
    await rig.end(0);
    expect(rig.running).toEqual([1, 2, 3]);
  });

  test('beyond all of it is for one alone', async () => {
    const rig = new Rig([{}, { memoryBytes: 1000 }, {}], { jobs: 3 });
    expect(rig.running).toEqual([0, 2]);
    await rig.end(0);
    expect(rig.running).toEqual([2]);
    await rig.end(2);
    expect(rig.running).toEqual([1]);
  });
});

test('once stopped nothing starts, and it is over when what runs has ended', async () => {
  const rig = new Rig([{}, {}, {}], { jobs: 2 });
  rig.isStopped = true;
  await rig.end(0);
  expect(rig.started).toEqual([0, 1]);
  expect(rig.isOver).toBe(false);
  await rig.end(1);
  expect(rig.isOver).toBe(true);
});

test('a mistake in one is told when the others have ended', async () => {
  let ended = false;
  const jobs = ['x', 'y', 'z'].map((file) => ({ file, fileSystem: 'a', memoryBytes: 0 }));
  const started: number[] = [];
  const run = async (index: number) => {
    started.push(index);
    if (index === 0) throw new Error('mistake');
    await new Promise((resolve) => setTimeout(resolve, 20));
    ended = true;
  };
  const limits = { jobs: 2, perFileSystem: 2, memoryBytes: 1 };
  await expect(runJobs(jobs, limits, () => false, run)).rejects.toThrow('mistake');
  expect(ended).toBe(true);
  expect(started).toEqual([0, 1]);
});

test('whatever the images: every rule holds at every moment, and all are run once', async () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new Random(seed);
    const count = random.between(1, 30);
    const jobs = Array.from({ length: count }, () => ({
      file: `file ${random.int(20)}`,
      fileSystem: random.pick(['a', 'b', 'c']),
      memoryBytes: random.between(1, 60),
    }));
    const limits = {
      jobs: random.between(1, 6),
      perFileSystem: random.pick([1, 2, Infinity]),
      memoryBytes: 100,
    };
    const rig = new Rig(jobs, limits);
    while (rig.running.length > 0) {
      const running = rig.jobsRunning();
      expect(running.length).toBeLessThanOrEqual(limits.jobs);
      expect(new Set(running.map(({ file }) => file)).size, `seed ${seed}`).toBe(running.length);
      const memory = running.reduce((sum, { memoryBytes }) => sum + memoryBytes, 0);
      expect(memory <= 100 || running.length === 1, `seed ${seed}`).toBe(true);
      for (const fileSystem of ['a', 'b', 'c'])
        expect(running.filter((job) => job.fileSystem === fileSystem).length).toBeLessThanOrEqual(
          limits.perFileSystem,
        );
      await rig.end(random.pick(rig.running));
    }
    expect(rig.isOver, `seed ${seed}`).toBe(true);
    expect([...rig.started].sort((a, b) => a - b)).toEqual([...jobs.keys()]);
  }
});
