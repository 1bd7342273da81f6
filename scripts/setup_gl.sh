#!/bin/sh
# Make sure that MuJoCo can render without a screen: libOSMesa or libEGL, in software.
# Installs them when it may (root, or sudo without a password, and apt-get); otherwise says what to type and fails.
set -eu

packages="libosmesa6 libegl1 libgl1-mesa-dri libgles2 libglvnd0"

has_gl() {
    { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep -Eq 'libOSMesa\.so|libEGL_mesa\.so|libEGL_nvidia\.so'
}

if has_gl; then
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    sudo=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo="sudo -n"
else
    sudo="none"
fi
if [ "$sudo" != none ] && command -v apt-get >/dev/null; then
    echo "installing a software GL library: $packages"
    $sudo apt-get update -qq
    # shellcheck disable=SC2086 # both are lists of words
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    has_gl && exit 0
fi
cat >&2 <<TEXT
The simulator needs a GL library to draw pictures, and none was found (looked for libOSMesa and libEGL).
This user may not install it. On Debian or Ubuntu type:

    sudo apt-get update && sudo apt-get install -y --no-install-recommends $packages

then repeat the command.
TEXT
exit 1
