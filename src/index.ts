/** The library: `import { compact, check, plan, repair, eraseJunk, Qcow2Disk } from 'qcow-compact'`. */
export { check } from './compactor/check.js';
export { compact } from './compactor/compact.js';
export { eraseJunk } from './compactor/erase.js';
export { plan } from './compactor/plan.js';
export { repair } from './compactor/repair.js';
export { RateLimiter } from './device/rate-limiter.js';
export {
  Qcow2Disk,
  type BlockStatus,
  type DeviceDiskOptions,
  type DiskOptions,
  type ZeroOptions,
} from './disk/qcow2-disk.js';
export type { BackgroundSettings } from './disk/background/options.js';
export type { DiskStatus } from './disk/background/status.js';
export { EXIT_STATUS, QcowError, type ErrorCode } from './errors.js';
export type { Stopped } from './compactor/stop.js';
export type { Threshold } from './compactor/threshold.js';
export type {
  CheckResult,
  CommonOptions,
  CompactOptions,
  CompactResult,
  EraseOptions,
  EraseResult,
  ImageFigures,
  Phase,
  PlanOptions,
  PlanResult,
  Progress,
  RepairOptions,
  RepairResult,
  RepairWhat,
  Repairs,
  SecretOptions,
} from './compactor/types.js';
