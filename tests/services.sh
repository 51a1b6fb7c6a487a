#!/bin/sh
# Installs the servers, the browser, the tracer of system calls and what builds and runs images, which the integration tests
# start for themselves
# (Debian, Ubuntu): sh tests/services.sh
# Does nothing where they are present; starts nothing. Without root it only says what is missing.
set -eu

packages="postgresql mariadb-server prometheus prometheus-alertmanager victoria-metrics systemd-container strace"
packages="$packages podman runc debootstrap"
# Ubuntu has Chromium as a snap only
[ "$(. /etc/os-release 2>/dev/null && echo "$ID")" != debian ] || packages="$packages chromium chromium-driver"

command -v dpkg-query >/dev/null || { echo "tests/services.sh: needs Debian or Ubuntu; install: $packages"; exit 0; }

missing=""
for package in $packages; do
    case "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" in
        installed) ;;
        *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "tests/services.sh: not root, tests that need these are skipped:$missing"
    exit 0
fi

# The packages would start their servers; the tests start their own, on free ports. 101: "not now" (policy-rc.d).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

log=$(mktemp)
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list on purpose
if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } >"$log" 2>&1; then
    cat "$log" >&2
    echo "tests/services.sh: could not install:$missing" >&2
    rm -f "$log"
    exit 1
fi
rm -f "$log"
