. functions.sh
write delay 16
echo 1 >/sys/module/zfs/parameters/zfs_prefetch_disable
cool_down
zinject -d /disks/vdev -D 40:1 -T read tank >&2 || exit
start json zfs-zio --json 1000
start text zfs-zio -m --heatmap zio.svg 1000
dd if=/tank/delay of=/dev/null bs=128k 2>/dev/null
for tool in json text; do finish $tool; done
zinject -c all >&2
grep -c '<rect' zio.svg >&2
