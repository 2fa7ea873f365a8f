#!/bin/busybox sh
# The first process in the guest: runs the job, sends what it left in /out as a tar through the second serial port, and
# turns the machine off. QEMU's exit status says nothing (it is 0 after a panic, too), so the lines VMK-… do.
export PATH=/bin:/sbin HOME=/root
b=/bin/busybox
for m in proc:/proc sysfs:/sys devtmpfs:/dev tmpfs:/tmp tmpfs:/out tmpfs:/run cgroup2:/sys/fs/cgroup \
    tracefs:/sys/kernel/tracing debugfs:/sys/kernel/debug; do
    $b mount -t "${m%%:*}" x "${m#*:}" 2>/dev/null
done
cd /job
echo "VMK-BEGIN $($b uname -r)"
$b sh ./job.sh </dev/null
rc=$?
$b dmesg | $b tail -c 20000 >/out/dmesg
$b stty -F /dev/ttyS1 raw 115200 -echo
$b tar -cf /dev/ttyS1 -C /out .
echo "VMK-END rc=$rc"
$b poweroff -f
