. functions.sh
own_count alloc 'r:own/alloc metaslab_alloc error=$retval:s32' error
start json zfs-metaslab --json 1000
start text zfs-metaslab 1000
write metaslab 256
sleep 1
own_counts alloc
for tool in json text; do finish $tool; done
flame zfs-metaslab --explain-hooks >&2
