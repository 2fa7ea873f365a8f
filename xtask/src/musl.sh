#!/bin/sh
# musl.sh SERIES ROOT WORK MIRROR: makes CPython SERIES with the C library musl, from Debian's source, in the directory ROOT.
# What is on the machine is not touched but for two packages: apt reads lists of its own in WORK.
set -eu
series=$1 root=$2 work=$3 mirror=$4
case $series in
    3.11) suite=bookworm ;;
    *) suite=trixie ;;
esac

mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/soname"
cd "$work"
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" > sources.list
cat > apt.conf <<END
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
END
APT_CONFIG=$work/apt.conf apt-get -qq update
APT_CONFIG=$work/apt.conf apt-get -qq source --download-only "python$series"
mkdir source build
tar -xf python"$series"_*.orig.tar.?z --strip-components=1 -C source

# What extensions and libraries ask for is called as on Alpine. gcc says that it compiles for glibc, and headers of
# glibc's libraries that pkg-config finds break extensions.
cp /usr/lib/x86_64-linux-musl/libc.so soname/
patchelf --set-soname libc.musl-x86_64.so.1 soname/libc.so
cat > musl-cc <<'END'
#!/bin/sh
case "$*" in *-print-multiarch*) echo x86_64-linux-musl; exit ;; esac
exec musl-gcc "$@"
END
chmod +x musl-cc

cd build
CC=$work/musl-cc PKG_CONFIG=/bin/false OPT='-DNDEBUG -O2' "$work/source/configure" -q --prefix=/usr/local \
    --enable-shared --without-ensurepip --disable-test-modules py_cv_module_zlib=n/a \
    LDFLAGS="-Wl,--eh-frame-hdr -L$work/soname" > "$work/log" 2>&1
make -s -j"$(nproc)" >> "$work/log" 2>&1
make -s install DESTDIR="$root" >> "$work/log" 2>&1

mkdir -p "$root/lib" "$root/proc" "$root/tmp"
cp /usr/lib/x86_64-linux-musl/libc.so "$root/lib/ld-musl-x86_64.so.1"
ln -s ld-musl-x86_64.so.1 "$root/lib/libc.musl-x86_64.so.1"
strip -s "$root/usr/local/bin/python$series" "$root/usr/local/lib/libpython$series.so.1.0"
cd "$root/usr/local/lib/python$series"
rm -rf idlelib turtledemo tkinter pydoc_data test
find "$root" -name '*.a' -delete
find "$root" -name __pycache__ -prune -exec rm -r {} +
