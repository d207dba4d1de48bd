/** All that the command line knows of the engine: the library, as any other program would use it. */
import type {
  CheckResult,
  CommonOptions,
  CompactOptions,
  CompactResult,
  EraseOptions,
  EraseResult,
  PlanOptions,
  PlanResult,
} from '../compactor/types.js';
import { QcowError, check, compact, eraseJunk, plan } from '../index.js';

export interface Engine {
  compact(path: string, options?: CompactOptions): Promise<CompactResult>;
  eraseJunk(path: string, options?: EraseOptions): Promise<EraseResult>;
  plan(path: string, options?: PlanOptions): Promise<PlanResult>;
  check(path: string, options?: CommonOptions): Promise<CheckResult>;
  QcowError: abstract new (...args: never[]) => Error & { code: string; exitStatus: number };
}

export const ENGINE: Engine = { compact, eraseJunk, plan, check, QcowError };
