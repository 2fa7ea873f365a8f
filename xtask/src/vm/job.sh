# What is run in each guest. It judges nothing: all that is said and measured goes to /out, and the host looks at it.
b=/bin/busybox
. ./settings # PYTHON
within=

uptime() {
    read -r seconds _ </proc/uptime
    echo "$seconds"
}

# A name, and what the profiler is run with. A verifier's log can be long; the end of it is what says why.
run() {
    name=$1
    shift
    uptime >"/out/$name.started"
    # Whoever looks at a guest that hung wants to know in what; and a guest that says nothing for long hangs.
    echo "VMK-AT $(uptime) $name"
    # An emulated verifier takes a minute for all programs of `why`, and twice that beside a build.
    $b timeout -s KILL 240 $within ./profiler "$@" 2>/tmp/said >/tmp/table
    echo $? >"/out/$name.status"
    uptime >"/out/$name.ended"
    $b tail -c 40000 /tmp/said >"/out/$name.said"
    echo "VMK-AT $(uptime) after $name: status $($b cat "/out/$name.status")"
}

record() {
    name=$1
    shift
    run "$name" record --force -f folded "$@"
}

uptime >/out/booted
"$PYTHON" -I -S -B ./workload.py >/tmp/workload 2>&1 &
pid=$!
until $b grep -q READY /tmp/workload; do
    if ! kill -0 $pid; then
        $b cat /tmp/workload
        exit 1
    fi
    $b sleep 0.1
done

# The configuration is read-only data to the verifier, which leaves out what it turns off: several configurations are
# several programs.
record load-process -v -s -p $pid -d 100ms -o /tmp/load
record load-machine -v -a -d 100ms -o /tmp/load
record load-python-only -v -a --no-native --no-kernel -d 100ms -o /tmp/load
record load-cgroup -v --cgroup /sys/fs/cgroup --comm "${PYTHON##*/}" -d 100ms -o /tmp/load
# Where the interpreter's functions are: in a library, or in the program itself.
library=$($b sed -n 's:^[^/]*\(/.*libpython[^ ]*\)$:\1:p' /proc/$pid/maps | $b head -n 1)
record load-probe -v -p $pid --probe "${library:-$PYTHON}:PyFloat_FromDouble" -d 1 -o /tmp/load
within="$b unshare --pid --fork --mount-proc"
record load-namespace -v -d 1 -o /tmp/load -- "$PYTHON" -I -S -c 'for _ in range(300000): pass'
within=

run load-memory memory -v -s -p $pid -d 300ms
run load-exact memory -v --exact --max-overhead 100 -p $pid -d 300ms
run load-calls calls -v --max-overhead 100 -p $pid -d 300ms --function none
run load-marks exceptions -v --max-overhead 100 -p $pid -d 300ms
run load-why why -v -p $pid -d 300ms

# The CPU time used in between is what the samples are to add up to.
$b cat /proc/uptime /proc/$pid/stat >/out/before
record recording -v -p $pid -d 5 -o /out/folded --summary-json /out/summary.json
$b cat /proc/uptime /proc/$pid/stat >/out/after
kill $pid

# It measures how long it waits, and where.
run waits waits -v --force -f json -o /out/waits.json -- "$PYTHON" -I -S -B ./waits.py /out/waits.measured
