#!/bin/sh
# free_threaded.sh SERIES PREFIX WORK MIRROR: makes CPython SERIES without a GIL, from Debian's source, in the directory PREFIX.
# What is on the machine is not touched: apt reads lists of its own in WORK.
set -eu
series=$1 prefix=$2 work=$3 mirror=$4

mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
cd "$work"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" > sources.list
cat > apt.conf <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
END
APT_CONFIG=$work/apt.conf apt-get -qq update
APT_CONFIG=$work/apt.conf apt-get -qq source --download-only "python$series"
mkdir source build
tar -xf python"$series"_*.orig.tar.xz --strip-components=1 -C source

cd build
OPT='-DNDEBUG -O2' "$work/source/configure" -q --prefix="$prefix" --disable-gil --without-ensurepip \
    --disable-test-modules > "$work/log" 2>&1
make -s -j"$(nproc)" >> "$work/log" 2>&1
make -s install >> "$work/log" 2>&1

# As images and distributions have it: what can be found out only by names that are stripped must not be relied on.
strip -s "$prefix/bin/python${series}t"
cd "$prefix/lib/python${series}t"
rm -rf idlelib turtledemo tkinter pydoc_data test
find "$prefix" -name '*.a' -delete
find "$prefix" -name __pycache__ -prune -exec rm -r {} +
