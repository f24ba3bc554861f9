#!/bin/sh
# Install Debian packages for the tests, as root: scripts/debian.sh PACKAGE…
set -e
export DEBIAN_FRONTEND=noninteractive
# While another installation runs, wait for it; what one that was cut off has left undone, apt refuses to work beside.
tries=0
until dpkg --configure -a >&2; do
    tries=$((tries + 1))
    [ "$tries" -lt 30 ] || { echo "dpkg cannot finish an earlier installation; see above." >&2; exit 1; }
    sleep 10
done
wait="-o DPkg::Lock::Timeout=300"
apt-get $wait -qq update
apt-get $wait -qq -y install "$@" >/dev/null
