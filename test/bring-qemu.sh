#!/usr/bin/env bash
# The tests let QEMU judge, boot a guest, and as root they run on file systems of their own: installs what is missing of
# qemu-utils, qemu-system-x86, libnbd's clients, fio, openssl, e2fsprogs, xfsprogs and btrfs-progs, or says the line to type;
# then brings what the guest is made of.
set -euo pipefail

# Where the tools of file systems are, also of users who have it not in theirs.
PATH=$PATH:/usr/sbin:/sbin
missing=()
for tool in qemu-img qemu-io qemu-nbd nbdinfo nbdcopy nbdsh fio openssl; do
  command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ "$(uname -sm)" = 'Linux x86_64' ]; then
  for tool in qemu-system-x86_64 fsck.ext4; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
fi
if [ "$(uname)" = Linux ] && [ "$(id -u)" -eq 0 ]; then
  for tool in mkfs.ext4 mkfs.xfs mkfs.btrfs; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
fi
bring_guest() { exec bash "$(dirname "$0")/guest/bring-kernel.sh"; }
[ ${#missing[@]} -eq 0 ] && bring_guest

# Install steps stay on one line each, so that the hint below is what runs.
install='apt-get update && apt-get install -y --no-install-recommends qemu-utils qemu-system-x86 libnbd-bin python3-libnbd fio openssl e2fsprogs xfsprogs btrfs-progs'
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
bring_guest
