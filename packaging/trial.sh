#!/bin/sh
# Run by `cargo xtask dist --try-out` in a clean root: installs one package, records a Python with it, takes it away again.
#   trial.sh tarball|deb|wheel FILE
set -eu
kind=$1 file=$2

case $kind in
tarball)
    tar --extract --gzip --file "$file" --directory /opt
    profiler=$(echo /opt/profiler-*/profiler)
    ;;
deb)
    dpkg --install "$file"
    profiler=/usr/bin/profiler
    test -s /usr/share/man/man1/profiler-record.1.gz
    test -s /usr/share/bash-completion/completions/profiler
    ;;
wheel)
    # From Debian 12 on pip wants to hear that it may.
    pip3 install --no-index --break-system-packages "$file" 2>/tmp/pip || pip3 install --no-index "$file" || { cat /tmp/pip; exit 1; }
    profiler=$(command -v profiler)
    ;;
esac
"$profiler" --version

cat >/tmp/spin.py <<'PYTHON'
def spin():
    while True:
        pass

spin()
PYTHON
python3 /tmp/spin.py &
python=$!
trap 'kill $python' EXIT
"$profiler" record -p $python -d 2 -f folded -o /tmp/out.folded --force
grep -q 'spin (/tmp/spin.py' /tmp/out.folded || { cat /tmp/out.folded; exit 1; }

case $kind in
tarball) rm -r /opt/profiler-* ;;
deb) dpkg --remove profiler ;;
wheel) pip3 uninstall --yes --break-system-packages profiler 2>/dev/null || pip3 uninstall --yes profiler ;;
esac
rm /tmp/out.folded "$file"
