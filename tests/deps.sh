# deps.sh - install what building and testing need on Debian 12; source it, then call mg_install_deps.
# Nothing happens when all packages are present. Runs apt-get as root, or through sudo when there is one.

mg_packages="build-essential cmake ninja-build pkg-config python3 libcjson-dev libyaml-dev libzstd-dev libxxhash-dev libpcre2-dev libutf8proc-dev libcriterion-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user"

# The packages of the list that are not installed. A machine without dpkg is expected to bring its own.
mg_missing_packages() {
    command -v dpkg-query >/dev/null || return 0
    for package in $mg_packages; do
        dpkg-query -W -f='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || printf '%s ' "$package"
    done
}

mg_install_deps() {
    missing=$(mg_missing_packages)
    [ -n "$missing" ] || return 0
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        if ! command -v sudo >/dev/null; then
            echo "missing packages, and neither root nor sudo to install them: apt-get install $missing" >&2
            return 1
        fi
        as_root=sudo
    fi
    echo "installing: $missing" >&2
    # one refresh only when the package lists do not know what is wanted
    # shellcheck disable=SC2086
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2 ||
        { $as_root apt-get update -q >&2 &&
            $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing >&2; }
}
