#!/bin/sh
# The NEON kernels, cross-compiled and run under an emulator: every twin against scalar code, the hashes that compare
# machines, and the golden blocks of every type. usage: neon.sh BUILD_DIR [check_kernels options]
# Without the compiler or the emulator it says so and leaves with 77, which ctest counts as skipped.
# MG_NEON_CC and MG_NEON_RUN name others.
set -eu
build=$1
shift
cc=${MG_NEON_CC:-aarch64-linux-gnu-gcc}
run=${MG_NEON_RUN:-qemu-aarch64}
root=$(cd "$(dirname "$0")/../.." && pwd)
for program in "$cc" "$run"; do
    command -v "$program" >/dev/null || {
        echo "NEON kernels were not tested: no $program (Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)"
        exit 77
    }
done
launcher=""
if command -v ccache >/dev/null; then launcher=-DCMAKE_C_COMPILER_LAUNCHER=ccache; fi
cmake -S "$root/tests/neon" -B "$build" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_BUILD_TYPE=Release $launcher >/dev/null
cmake --build "$build" -- --quiet
"$run" "$build/check_kernels" "$@"
"$run" "$build/math_hash"
PYTHONDONTWRITEBYTECODE=1 python3 "$root/tests/check/golden_kernels.py" "$root" "$run" "$build/check_kernels"
