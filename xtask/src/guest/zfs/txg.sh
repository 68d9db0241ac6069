. functions.sh
start json zfs-txg --json 1000
start text zfs-txg -m --heatmap txg.svg 1000
for blocks in 1 2 4 8 16 32; do write txg $blocks; done
for tool in json text; do finish $tool; done
sed 's/^/kstat /' /proc/spl/kstat/zfs/tank/txgs
grep -c '<rect' txg.svg >&2
flame zfs-txg --explain-hooks >&2
