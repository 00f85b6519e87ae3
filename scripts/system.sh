#!/bin/sh
# Install the system programs that the real-service tests drive: PostgreSQL, Redis, Prometheus and Chromium; and wrk, which the serving
# benchmarks ask with. None is started as a service of the machine: each test that needs one starts its own.
# Where that is not possible, say which tests will be skipped and why; never fail.
set -u

have_postgres() { command -v postgres || command -v pg_ctl || ls /usr/lib/postgresql/*/bin/postgres /opt/homebrew/opt/postgresql*/bin/postgres; }
have_redis() { command -v redis-server || command -v valkey-server; }
have_prometheus() { command -v prometheus && command -v promtool; }
have_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome || ls "/Applications/Google Chrome.app"; }
have_wrk() { command -v wrk; }
have_venv() { "${PYTHON:-python3}" -c 'import ensurepip, venv'; }

missing=""
have_venv >/dev/null 2>&1 || missing="$missing python3-venv"
have_postgres >/dev/null 2>&1 || missing="$missing postgresql"
have_redis >/dev/null 2>&1 || missing="$missing redis-server"
have_prometheus >/dev/null 2>&1 || missing="$missing prometheus"
have_chromium >/dev/null 2>&1 || missing="$missing chromium"
have_wrk >/dev/null 2>&1 || missing="$missing wrk"
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing$missing with apt-get"
    apt-get update -qq || true
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    for package in $missing; do # one by one: a name that this release does not know must not hold up the others
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null 2>&1 ||
            echo "could not install $package; tests that need it are skipped"
    done
elif command -v apt-get >/dev/null 2>&1; then
    echo "not installed:$missing; tests that need them are skipped (as root: apt-get install$missing)"
else
    echo "not installed:$missing; tests that need them are skipped (on macOS: brew install postgresql@17 redis prometheus wrk, and a Chrome or Chromium)"
fi
