/** All that the command line knows of the engine: the library, as any other program would use it. */
import type {
  CheckResult,
  CommonOptions,
  CompactOptions,
  CompactResult,
  EraseOptions,
  EraseResult,
  PlanResult,
} from '../compactor/types.js';

export interface Engine {
  compact(path: string, options?: CompactOptions): Promise<CompactResult>;
  eraseJunk(path: string, options?: EraseOptions): Promise<EraseResult>;
  plan(path: string, options?: { keepErased?: number; punch?: boolean } & CommonOptions): Promise<PlanResult>;
  check(path: string, options?: CommonOptions): Promise<CheckResult>;
  QcowError: abstract new (...args: never[]) => Error & { code: string; exitStatus: number };
}

export async function loadEngine(): Promise<Engine> {
  return await import('../index.js');
}
