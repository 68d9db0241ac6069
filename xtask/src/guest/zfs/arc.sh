. functions.sh
readers=/sys/fs/cgroup/readers
mkdir -p $readers
write file 64
cool_down
start json zfs-arc -P -n 1000 --json 1000
start text zfs-arc -P 1000
start cgroup zfs-arc --cgroup $readers --json 1000
start total zfs-arc 1000
sed 's/^/before /' /proc/spl/kstat/zfs/arcstats
# Cold, then warm, each record once.
echo 1 >/sys/module/zfs/parameters/zfs_prefetch_disable
for state in cold warm; do
	(echo 0 >$readers/cgroup.procs; exec dd if=/tank/file of=/dev/null bs=128k 2>/dev/null)
done
# Cold again, by another command and with prefetches, which it catches up with.
cool_down
echo 0 >/sys/module/zfs/parameters/zfs_prefetch_disable
md5sum /tank/file >&2
sleep 1
sed 's/^/after /' /proc/spl/kstat/zfs/arcstats
for tool in json text cgroup total; do finish $tool; done
flame zfs-arc --explain-hooks >&2
flame zfs-arc -P --explain-hooks >&2
