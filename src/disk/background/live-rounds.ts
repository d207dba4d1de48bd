/**
 * The rounds beside clients (recycler contract C20 to C55): plan, copy, barrier, references, barrier, as without clients, but
 * each step on its own, so that others come in between.
 */
import { Kind } from '../../image/host-clusters.js';
import { MoveState, type Moves } from '../../recycler/moves.js';
import type { BackgroundContext } from './context.js';
import { lastThatStays, planLive } from './live-plan.js';
import { PlannedRounds } from './planned-rounds.js';

/** Moves of one plan, whose slots are collected in one pass over the tables. */
const MOST_MOVES = 1 << 16;
/** Of one round, where clusters are small: it is planned and given up in one turn of the event loop. */
const MOST_IN_ROUND = 1 << 13;

/** Of refcount blocks: meanwhile nobody gets a cluster. */
const MOST_BLOCKS = 4;

/** Plans that came to nothing, since clients changed all that was to move. */
const MOST_IN_VAIN = 3;

/** Tables that are locked at a time while references are written: clients, flushes among them, wait for no more. */
const MOST_TABLES = 64;

/** Between looks at tables that clients are in: seconds, longer each time. */
const RETRY_SECONDS = [0.001, 0.004, 0.016];
/**
 * At the last looks it stands in line for so long, and who comes later waits behind it: of a guest that is never at rest
 * nothing could be moved otherwise. A request takes less, so that none waits for longer than it would for a busy host.
 */
const PATIENCE_SECONDS = 0.05;

export type Copied =
  | 'copied'
  /** Nothing can move nearer to the front. */
  | 'nothing'
  /** What was planned has changed. */
  | 'in vain';

export class LiveRounds {
  readonly #context: BackgroundContext;
  #planned: PlannedRounds | null = null;
  #plansInVain = 0;
  #updatedBefore = 0;
  readonly #pass: (bytes: number) => Promise<boolean>;
  /** What is being copied has waited already. */
  #isPaid = false;
  /** Bytes of the file that stay where they are, as the last plan has found that came to nothing. */
  fixedBytes = 0;

  /** `pass`: waits for clients to leave room for so many bytes; false: the work is to end. */
  constructor(context: BackgroundContext, pass: (bytes: number) => Promise<boolean>) {
    this.#context = context;
    this.#pass = pass;
    context.recycler.attach(context.tables, {
      mayCopy: (bytes) => (this.#isPaid ? Promise.resolve(true) : pass(bytes)),
    });
  }

  /** Registers the next round and copies it. That of refcount blocks is complete afterwards. */
  async copy(): Promise<Copied> {
    const { recycler } = this.#context;
    if (recycler.unfinishedMoves) throw new Error('a round is to begin while moves are unfinished');
    if (this.#planned === null && !(await this.#plan())) return 'nothing';
    const planned = this.#planned!;
    const moved = planned.kinds.includes(Kind.refcountBlock)
      ? await this.#moveBlocks(planned)
      : await this.#copyNext(planned);
    if (moved) return 'copied';
    this.#planned = null;
    this.#plansInVain = recycler.referencesUpdated === this.#updatedBefore ? this.#plansInVain + 1 : 0;
    return this.#plansInVain >= MOST_IN_VAIN ? 'in vain' : this.copy();
  }

  async #plan(): Promise<boolean> {
    const { recycler, tables, roundBytes } = this.#context;
    const { volume } = recycler;
    const plan = await planLive(volume, MOST_MOVES);
    if (plan === null) {
      this.fixedBytes = ((await lastThatStays(volume)) + 1) * volume.clusterBytes;
      return false;
    }
    this.#updatedBefore = recycler.referencesUpdated;
    const most = plan.kinds.includes(Kind.refcountBlock) ? MOST_BLOCKS : MOST_IN_ROUND;
    const perRound = Math.min(most, Math.max(1, Math.floor(roundBytes / volume.clusterBytes)));
    this.#planned = await PlannedRounds.collect(volume, tables, plan, perRound);
    return true;
  }

  /** Without an await between the choice and the registration (C21). */
  async #copyNext(planned: PlannedRounds): Promise<boolean> {
    const moves: Moves | null = planned.next();
    if (moves === null) return false;
    this.#context.recycler.begin(moves);
    await this.#context.recycler.copy();
    return true;
  }

  /**
   * In one go: what fills the pool changes counts, and what a block says must not change while it moves. Nor does it give way
   * to clients meanwhile, who may wait for clusters: it has done so before.
   */
  async #moveBlocks(planned: PlannedRounds): Promise<boolean> {
    const { allocator, recycler } = this.#context;
    if (planned.isDone) return false;
    if (!(await this.#pass(MOST_BLOCKS * recycler.volume.clusterBytes))) return false;
    return allocator.supply.run(async () => {
      this.#isPaid = true;
      const isCopied = await this.#copyNext(planned).finally(() => (this.#isPaid = false));
      if (!isCopied) return false;
      await recycler.flush();
      await this.updateReferences();
      await recycler.flush();
      return true;
    });
  }

  /** References of all that is flushed. Tables that clients are in are tried again, and then given up (C35). */
  async updateReferences(): Promise<void> {
    const { recycler, flusher, clock } = this.#context;
    for (let tries = 0; recycler.hasMoves(MoveState.flushed); tries++) {
      if (tries > 0) await clock.sleep(RETRY_SECONDS[tries - 1]!);
      const isPatient = tries + 1 >= RETRY_SECONDS.length;
      const givesUp = tries === RETRY_SECONDS.length;
      for (const batch of recycler.liveBatches(MOST_TABLES)) {
        await flusher.between(() =>
          recycler.updateLive(batch, { tooLate: isPatient ? clock.sleep(PATIENCE_SECONDS) : null, givesUp }),
        );
      }
    }
  }

  /** What is under way is given up, as far as it can be; the plan too. */
  forget(): void {
    this.#context.recycler.cancelAll();
    this.lookAnew();
  }

  /** What was planned is forgotten: the next round begins with a new plan. */
  lookAnew(): void {
    this.#planned = null;
    this.#plansInVain = 0;
  }
}
