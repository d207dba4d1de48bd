#!/usr/bin/env bash
# The tests let QEMU judge, and as root they run on file systems of their own: installs what is missing of
# qemu-utils, libnbd's clients, openssl, e2fsprogs, xfsprogs and btrfs-progs, or says the line to type.
set -euo pipefail

missing=()
for tool in qemu-img qemu-io qemu-nbd nbdinfo nbdcopy nbdsh openssl; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ "$(uname)" = Linux ] && [ "$(id -u)" -eq 0 ]; then
  for tool in mkfs.ext4 mkfs.xfs mkfs.btrfs; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
fi
[ ${#missing[@]} -eq 0 ] && exit 0

# Install steps stay on one line each, so that the hint below is what runs.
install='apt-get update && apt-get install -y --no-install-recommends qemu-utils libnbd-bin python3-libnbd openssl e2fsprogs xfsprogs btrfs-progs'
echo "bring-qemu: ${missing[*]} missing" >&2
if ! command -v apt-get >/dev/null; then
  echo 'bring-qemu: install QEMU and libnbd by your package manager (macOS: brew install qemu libnbd), then try again' >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
if [ "$(id -u)" -eq 0 ]; then
  bash -c "$install"
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  sudo bash -c "$install"
else
  echo "bring-qemu: as root, type: $install" >&2
  exit 1
fi
