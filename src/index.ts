/** The library: `import { compact, check, plan, repair, eraseJunk } from 'qcow-compact'`. */
export { check } from './compactor/check.js';
export { compact } from './compactor/compact.js';
export { eraseJunk } from './compactor/erase.js';
export { plan } from './compactor/plan.js';
export { repair } from './compactor/repair.js';
export { EXIT_STATUS, QcowError, type ErrorCode } from './errors.js';
export type {
  CheckResult,
  CommonOptions,
  CompactOptions,
  CompactResult,
  EraseOptions,
  EraseResult,
  ImageFigures,
  Phase,
  PlanResult,
  Progress,
  RepairOptions,
  RepairResult,
  RepairWhat,
  Repairs,
} from './compactor/types.js';
