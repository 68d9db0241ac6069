. functions.sh
own_count create 'p:own/create zio_create type=$stack4:u32' type
start json zfs-zio --json 1000
start text zfs-zio 1000
write zio 64
cool_down
dd if=/tank/zio of=/dev/null bs=128k 2>/dev/null
rm /tank/zio
zpool sync tank
sleep 1
own_counts create
for tool in json text; do finish $tool; done
flame zfs-zio --explain-hooks >&2
