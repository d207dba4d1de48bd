/** What the project wants to reach. A bound is printed as passed or missed, and enforced by nobody: machines differ. */

const MIB = 2 ** 20;
const GIB = 2 ** 30;

/** Cases with work to do on one image, of `--size` at the most. */
const COMPACTING = ['half', 'snapshots', 'tail', 'compressed', 'small'];

/** In pieces of 256 KiB, then of 4 KiB. */
const SERVING = ['serve read', 'serve write', 'serve 4k read', 'serve 4k write'];
const COMPACTING_BESIDE = SERVING.map((name) => `${name}, compacting`);

/** The rival whose name begins so. */
const ratioTo = (name) => (result) => result.rivals.find((rival) => rival.name.startsWith(name))?.ratio;
/** Times for the same bytes: the limit is the inverse of that of the throughput. */
const throughput = ratioTo('qemu-nbd');
const copied = ({ movesBy }) => movesBy === 'copying';
const shared = ({ movesBy }) => movesBy === 'sharing';

/** Each: of which cases, what, the figure, its limit; `where`: of which results. */
const BOUNDS = [
  bound(['half'], 'wall time at most 0.60 x convert + sync', ratioTo('convert'), 0.6, copied),
  bound(['half'], 'wall time at most 1.10 x bare loop', ratioTo('bare'), 1.1, copied),
  bound(['half'], 'blocks shared: wall time at most 0.12 x convert + sync', ratioTo('convert'), 0.12, shared),
  bound(['half'], 'blocks shared: no byte of data written', dataBytesWritten, 0, shared),
  bound(['tail'], 'wall time at most 0.10 x convert + sync', ratioTo('convert'), 0.1),
  bound(['compressed'], 'wall time at most 0.15 x convert -c + sync', ratioTo('convert'), 0.15),
  bound(['clean'], 'wall time at most 1.20 x (node -e 0 + read of the metadata)', ratioTo('node'), 1.2),
  bound(['clean', 'metadata'], 'bytes written 0, file times unchanged', writtenOrTouched, 0),
  bound(['metadata'], 'wall time at most 1.5 s', ({ seconds }) => seconds, 1.5),
  bound(['metadata'], 'peak memory at most 300 MiB', peakMib, 300),
  bound(['version'], 'wall time at most 1.30 x node -e 0', ratioTo('node'), 1.3),
  bound(['version'], '--version and --help load no engine', ({ engineLoaded }) => engineLoaded.length, 0),
  bound(['small'], 'wall time at most 2.00 x node -e 0', ratioTo('node'), 2),
  bound(SERVING.slice(0, 2), 'at least 0.70 x the throughput of qemu-nbd', throughput, 1 / 0.7),
  bound(SERVING.slice(2), 'at least 0.50 x the throughput of qemu-nbd', throughput, 2),
  bound(COMPACTING_BESIDE, 'at least 0.80 x its throughput at rest', ratioTo('idle'), 1 / 0.8),
  bound(
    [...SERVING, ...COMPACTING_BESIDE],
    'peak memory at most 100 MiB and the cache of tables',
    peakMib,
    164,
  ),
  bound(
    COMPACTING,
    'copied: bytes written at most 1.02 x what must move + 5 % of the metadata',
    writtenShare,
    1,
    copied,
  ),
  bound(
    [...COMPACTING, 'clean'],
    'peak memory below 120 MiB',
    peakMib,
    120,
    (_, { sizeBytes }) => sizeBytes <= 64 * GIB,
  ),
];

function bound(cases, what, measure, limit, where = () => true) {
  return { cases, what, measure, limit, where };
}

function peakMib({ peakBytes }) {
  return peakBytes / MIB;
}

function writtenOrTouched({ bytesWritten, touched }) {
  return touched ? Infinity : bytesWritten;
}

/** Tables are written even where data share their blocks: their entries change. */
function dataBytesWritten({ dataBytesMoved, bytesShared }) {
  return dataBytesMoved - bytesShared;
}

/** Of what may be written. */
function writtenShare({ bytesWritten, mustMoveBytes, metadataBytes }) {
  return bytesWritten / (1.02 * mustMoveBytes + 0.05 * metadataBytes);
}

/** A bound on a figure that is missing is neither passed nor missed. */
export function judge(results, options) {
  const verdicts = [];
  for (const result of results) {
    for (const { cases, what, measure, limit, where } of BOUNDS) {
      if (!cases.includes(result.case) || !where(result, options)) continue;
      const value = measure(result) ?? NaN;
      const verdict = Number.isNaN(value) ? 'unknown' : value <= limit ? 'pass' : 'MISS';
      verdicts.push({ fileSystem: result.fileSystem, case: result.case, what, value, limit, verdict });
    }
  }
  return verdicts;
}
